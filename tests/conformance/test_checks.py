"""The stored vectors pass; the same vectors with one value changed do not; unusable input is explained."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conformance import families
from tests.conformance.families import IMPLEMENTED
from unigrpo.core.errors import UserError

VECTORS = Path(__file__).parents[1] / "vectors"


def run(folder):
    """Results of all files of a folder: of the implemented features, and the number of cases of the others."""
    tallies, others = {}, {}
    for path, read in families.find(folder):
        found = families.run(path, read)
        tallies, others = tallies | found[0], others | found[1]
    return tallies, others


def passes(folder):
    """Whether every implemented feature does, and the report."""
    tallies, others = run(folder)
    return not any(tally.failures for tally in tallies.values()), "\n".join(families.lines(tallies, others))


def copied(family, folder, prefix=""):
    for path in VECTORS.glob(f"{family}.*"):
        shutil.copy(path, folder / (prefix + path.name))
    return folder


def changed_tensor(folder, family, name):
    path = copied(family, folder) / f"{family}.safetensors"
    tensors = load_file(path)
    flat = tensors[name].flatten()
    if flat.dtype == torch.bool:
        flat[-1] = ~flat[-1]
    else:
        flat[-1] += 1 if not flat.is_floating_point() else 1e-2 * max(flat.abs().max().item(), 1e-2)
    tensors[name] = flat.view(tensors[name].shape)
    save_file(tensors, path)


def changed_json(folder, family, *keys):
    """Changes the number, truth value or text behind ``keys`` (in the first line of a .jsonl)."""
    (path,) = (p for p in copied(family, folder).iterdir() if p.suffix.startswith(".json"))
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    document = json.loads(lines[0])
    holder = document
    for key in keys[:-1]:
        holder = holder[key]
    old = holder[keys[-1]]
    holder[keys[-1]] = (not old) if isinstance(old, bool) else old + ("x" if isinstance(old, str) else 0.01)
    path.write_text("\n".join([json.dumps(document), *lines[1:]]))


@pytest.mark.slow
def test_every_implemented_feature_is_stored_and_passes():
    tallies, others = run(VECTORS)
    assert set(tallies) == set(IMPLEMENTED) and not set(others) & set(IMPLEMENTED)
    assert all(tally.passed == tally.cases > 0 for tally in tallies.values())


@pytest.mark.parametrize(
    ("family", "tensor"),
    [
        ("sde_steps", "0000.mean"),
        ("sde_steps", "0000.std"),
        ("sde_steps", "0000.log_prob"),
        ("sde_steps", "0000.grad_v"),
        ("sde_steps", "0048.log_prob"),
        ("sde_steps", "0135.log_prob"),
        ("sde_steps", "0001.mean"),
        ("sde_steps", "0001.std"),
        ("sde_steps", "0001.log_prob"),
        ("sde_steps", "0049.grad_v"),
        ("sde_steps", "0106.mean"),
        ("sde_steps", "0136.log_prob"),
        ("sde_steps", "0080.std"),
        ("sde_steps", "0112.log_prob"),
        ("sde_steps", "0123.grad_v"),
        ("ratio_norm", "0006.flow_grpo_plain.loss"),
        ("ratio_norm", "0006.flow_grpo_plain.ratio"),
        ("ratio_norm", "0000.flow_grpo_guard.loss"),
        ("ratio_norm", "0006.verl_omni_guard.grad_v"),
        ("ratio_norm", "0006.indep_unirl.ratio"),
        ("ratio_norm", "0006.indep_unirl.loss"),
        ("ratio_norm", "0006.flow_grpo_kl.loss"),
        ("ratio_norm", "0006.indep_velocity_mse.grad_v"),
        ("text_grpo", "0000.loss"),
        ("text_grpo", "0000.grad_new"),
        ("extra_algos", "fpo00.rho"),
        ("extra_algos", "fpo01.grad_cfm_new"),
        ("extra_algos", "awm04.log_prob"),
        ("extra_algos", "awm01.kl_loss"),
        ("extra_algos", "awm02.grad_v"),
        ("extra_algos", "nft00.policy_loss"),
        ("extra_algos", "nft03.grad_v"),
        ("bagel_tiny", "expected.A.attention_mask_0"),
        ("bagel_tiny", "input.A.packed_position_ids"),
        ("bagel_tiny", "expected.A.ce"),
        ("bagel_tiny", "expected.A.grad_l2"),
        ("bagel_tiny", "expected.B.cache_k"),
        ("bagel_tiny", "expected.B.greedy_tokens"),
        ("bagel_tiny", "expected.C.velocity_empty_context"),
        ("bagel_tiny", "expected.C.block_position_ids"),
        ("bagel_tiny", "expected.D.nocfg.x"),
        ("bagel_tiny", "expected.D.cfg4.v"),
        ("bagel_tiny", "expected.E.latent_position_ids"),
        ("bagel_tiny", "language_model.model.layers.0.mlp_moe_gen.up_proj.weight"),
        ("bagel_tiny", "expected.A2.attention_mask_0"),
        ("bagel_tiny", "expected.A2.last_hidden"),
        ("bagel_tiny", "expected.A2.mse"),
        ("bagel_tiny", "expected.A2.grad_l2"),
        ("bagel_tiny", "input.A2.packed_vit_position_ids"),
        ("bagel_tiny", "expected.D.think.x"),
        ("bagel_tiny", "expected.D.think.block_position"),
        ("bagel_tiny", "expected.D.renorm_global_min0p5"),
        ("bagel_tiny", "expected.D.renorm_channel"),
        ("bagel_tiny", "expected.D.renorm_text_channel_textonly"),
        ("bagel_tiny", "expected.F.vit_output"),
        ("bagel_tiny", "expected.F.greedy_tokens"),
        ("bagel_tiny", "expected.G.positions"),
        ("bagel_tiny", "expected.G.vae_block_cache_k"),
        ("bagel_tiny", "expected.G.velocity_cfg"),
        ("bagel_tiny", "vit_model.vision_model.embeddings.patch_embedding.weight"),
        ("bagel_tiny_vae", "expected.moments"),
        ("bagel_tiny_vae", "expected.latent_mode"),
        ("bagel_tiny_vae", "expected.decoded"),
        ("bagel_tiny_vae", "decoder.conv_out.bias"),
    ],
)
def test_one_changed_number_fails(tmp_path, family, tensor):
    changed_tensor(tmp_path, family, tensor)
    passed, report = passes(tmp_path)
    assert not passed and "FAIL" in report


@pytest.mark.parametrize("name", ["loss", "grad_new"])
def test_every_text_feature_notices_a_changed_number(tmp_path, name):
    path = copied("text_grpo", tmp_path) / "text_grpo.safetensors"
    changed = {k: (1.001 * t if k.endswith(f".{name}") else t) for k, t in load_file(path).items()}
    save_file(changed, path)
    tallies, _ = run(tmp_path)
    assert len(tallies) == sum(feature.startswith("text_grpo/") for feature in IMPLEMENTED)
    assert all(tally.failures for tally in tallies.values())


@pytest.mark.parametrize(
    ("family", "keys"),
    [
        ("extra_algos", ("advantages", 0, "advantages", 0)),
        ("extra_algos", ("schedules", 1, "unirl_static", 1)),
        ("extra_algos", ("schedules", 1, "diffusers_set_timesteps", 2)),
        ("sde_steps", ("cases", 0, "noise_level")),
        ("extra_algos", ("ema", 2, "ema", 5, 1)),
        ("extra_algos", ("ema", 0, "update_step_interval")),
        ("extra_algos", ("nft_decay", 24, "decay")),
        ("extra_algos", ("mixgrpo", 1, "windows", 9, 0)),
        ("extra_algos", ("mixgrpo", 0, "windows", 10, 1)),
        ("text_grpo", ("cases", 0, "metrics", "clip_ratio/high_mean")),
        ("text_grpo", ("cases", 2, "metrics", "clip_ratio/low_mean")),
        ("text_grpo", ("cases", 16, "metrics", "kl")),
        ("text_grpo", ("cases", 21, "metrics", "cispo_clip_ratio")),
        ("text_grpo", ("cases", 17, "delta")),
        ("text_grpo", ("cases", 19, "entropy_coef")),
        ("geneval_cases", ("verdict", "correct")),
        ("geneval_cases", ("verdict", "reason_canonical")),
        ("geneval_cases", ("verdict", "reward_score")),
        ("geneval_filter_cases", ("kept", "person", 0, 4)),
        ("geneval_filter_cases", ("correct",)),
    ],
)
def test_one_changed_entry_fails(tmp_path, family, keys):
    changed_json(tmp_path, family, *keys)
    assert not passes(tmp_path)[0]


def test_weights_of_another_autoencoder_are_refused(tmp_path):
    path = copied("bagel_tiny_vae", tmp_path) / "bagel_tiny_vae.safetensors"
    save_file({k: t for k, t in load_file(path).items() if k != "decoder.up.2.upsample.conv.bias"}, path)
    with pytest.raises(UserError, match=r"decoder\.up\.2\.upsample\.conv\.bias"):
        run(tmp_path)


def test_a_nan_in_a_stored_result_fails(tmp_path):
    path = copied("text_grpo", tmp_path) / "text_grpo.safetensors"
    tensors = load_file(path)
    tensors["0000.loss"] *= torch.nan
    save_file(tensors, path)
    assert not passes(tmp_path)[0]


def test_prefixed_files_and_subsets_are_read(tmp_path):
    path = copied("sde_steps", tmp_path, prefix="b_") / "b_sde_steps.json"
    document = json.loads(path.read_text())
    sde, other = ([c for c in document["cases"] if c["kind"] == kind][:1] for kind in ("sde", "cps"))
    document["cases"] = sde + [case | {"kind": "ornstein"} for case in other]
    path.write_text(json.dumps(document))
    tallies, others = run(tmp_path)
    assert {name: tally.cases for name, tally in tallies.items()} == {"sde_steps/sde": 1}
    assert others == {"sde_steps/ornstein": 1}


def test_unusable_input_is_explained(tmp_path):
    with pytest.raises(UserError, match="expected a folder"):
        run(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no vector files"):
        run(tmp_path)
    copied("text_grpo", tmp_path)
    (tmp_path / "text_grpo.safetensors").write_bytes(b"\x10")
    with pytest.raises(UserError, match=r"text_grpo.safetensors: expected a safetensors file"):
        run(tmp_path)
    (tmp_path / "text_grpo.safetensors").unlink()
    with pytest.raises(UserError, match=r"text_grpo.safetensors"):
        run(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"cases": [', "sde_steps.json, line 1: not valid JSON"),
        ('{"cases": [{"id": 0}]}', "the key 'kind' is missing"),
        ('{"cases": [{"id": 0, "kind": "sde", "std_is": 1, "mode": "replay"}]}', "sde_steps.json"),
        ('{"cases": 5}', "not readable"),
        ('{"cases": []}', "holds no cases"),
    ],
)
def test_damaged_json_is_explained(tmp_path, text, message):
    copied("sde_steps", tmp_path)
    (tmp_path / "sde_steps.json").write_text(text)
    with pytest.raises(UserError, match=message):
        run(tmp_path)


def test_a_damaged_line_is_named(tmp_path):
    path = copied("geneval_cases", tmp_path) / "geneval_cases.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1][:50], *lines[2:]]))
    with pytest.raises(UserError, match=r"geneval_cases.jsonl, line 2"):
        run(tmp_path)


SETTINGS = {  # family -> where a setting of a case stands
    "sde_steps": ("cases", 0),
    "ratio_norm": ("cases", 3),
    "text_grpo": ("cases", 5),
    "extra_algos": ("awm", 2),
    "bagel_tiny": ("config", "llm_config"),
    "bagel_tiny_vae": ("config",),
    "geneval_cases": (),
    "geneval_filter_cases": (),
}


@pytest.mark.parametrize(("family", "keys"), SETTINGS.items(), ids=SETTINGS)
def test_a_setting_that_no_check_uses_is_an_error(tmp_path, family, keys):
    (path,) = (p for p in copied(family, tmp_path).iterdir() if p.suffix.startswith(".json"))
    lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    document = holder = json.loads(lines[0])
    for key in keys:
        holder = holder[key]
    holder["dropout"] = 0.1
    path.write_text("\n".join([json.dumps(document), *lines[1:]]))
    with pytest.raises(
        UserError, match=rf"{path.name}: case .*: the setting (config\.llm_config\.)?dropout is not used"
    ):
        run(tmp_path)


@pytest.mark.parametrize(
    ("family", "keys", "message"),
    [
        ("bagel_tiny", ("config", "llm_config", "qk_norm"), r"config\.llm_config\.qk_norm: expected True, got False"),
        (
            "bagel_tiny",
            ("config", "llm_config", "tie_word_embeddings"),
            "tie_word_embeddings: expected False, got True",
        ),
        ("bagel_tiny_vae", ("config", "z_channels"), r"config\.z_channels: expected 4, got 4.01"),
    ],
)
def test_a_setting_of_another_network_is_refused(tmp_path, family, keys, message):
    changed_json(tmp_path, family, *keys)
    with pytest.raises(UserError, match=rf"{family}\.json: .*{message}"):
        run(tmp_path)


@pytest.mark.parametrize("key", ["scale_factor", "shift_factor"])
def test_scale_and_shift_of_the_autoencoder_are_read(tmp_path, key):
    changed_json(tmp_path, "bagel_tiny_vae", "config", key)
    assert not passes(tmp_path)[0]


@pytest.mark.slow
def test_any_folder_is_checked_by_pytest(pytester, root):
    """The report is printed; a failure and unusable input are explained."""
    folder = pytester.mkdir("vectors")
    command = ["-q", "-p", "no:cacheprovider", root / "tests/conformance", "--vectors", folder]
    assert "no vector files here" in pytester.runpytest_subprocess(*command).stdout.str()
    copied("ratio_norm", folder)
    done = pytester.runpytest_subprocess(*command)
    assert done.ret == 0 and re.search(r"ok +ratio_norm/plain +24 cases +24 passed, largest error", done.stdout.str())
    changed_tensor(folder, "ratio_norm", "0006.flow_grpo_plain.loss")
    done = pytester.runpytest_subprocess(*command)
    assert done.ret == 1 and "FAIL ratio_norm/plain" in done.stdout.str()
    assert "ratio_norm.json case 6: flow_grpo_plain loss off by" in done.stdout.str()
    (folder / "ratio_norm.safetensors").write_bytes(b"x")
    done = pytester.runpytest_subprocess(*command)
    assert done.ret == 1 and "ratio_norm.safetensors: expected a safetensors file" in done.stdout.str()
