from unigrpo.core.records import Prompt, same_text


def test_prompts_are_the_same_by_text_and_tag_whatever_their_labels_and_spelling():
    one = Prompt("00000", "a caf\u00e9  with\ta door\n", "single_object", {"include": []})
    other = Prompt("7", " a cafe\u0301 with a\u00a0door", "single_object", {})
    assert one.key == other.key == ("a caf\u00e9 with a door", "single_object")
    assert one.key != Prompt("00000", one.text, "counting", one.meta).key
    assert same_text("A dog") != same_text("a dog")
    assert same_text("\ud800 x") == "\ud800 x"  # half a character is a text, too
