"""The one reader of picture files: what it makes of kinds of pixels, and what it refuses, each in one line."""

import os
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from unigrpo.core.errors import UserError
from unigrpo.sampling import pictures
from unigrpo.sampling.pictures import as_rgb, path_in, read_picture


def image(seed=0, size=(20, 24)):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (*size[::-1], 3), dtype=np.uint8))


def tiff(orientation, resolution=(72, 1)):
    """An EXIF block with an orientation and a (signed) resolution."""
    head = b"Exif\0\0II*\0\x08\0\0\0\x02\0" + struct.pack("<HHIHH", 0x112, 3, 1, orientation, 0)
    return head + struct.pack("<HHII", 0x11A, 10, 1, 38) + struct.pack("<I", 0) + struct.pack("<ii", *resolution)


def png(width, height, depth, color):
    """A PNG file of zeros with these numbers in its header; its pixels are left out where they would be many."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    rows = zlib.compress(bytes(height * (1 + width * 8))) if width * height < 10**6 else b""
    chunks = ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b""))
    parts = [struct.pack(">I", len(c)) + t + c + struct.pack(">I", zlib.crc32(t + c)) for t, c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright_whatever_else_their_exif_block_holds(tmp_path, orientation):
    plain, odd = tmp_path / "plain.png", tmp_path / "odd.png"
    image().save(plain, exif=tiff(orientation))
    image().save(odd, exif=tiff(orientation, (-72, 1)))  # no number that the format allows
    upright = np.asarray(ImageOps.exif_transpose(Image.open(plain)))
    assert np.array_equal(np.asarray(read_picture(plain)), upright)
    assert np.array_equal(np.asarray(read_picture(odd)), upright)


def test_kinds_of_eight_bit_pixels_become_rgb_and_lose_their_alpha(tmp_path):
    picture, path = image(), tmp_path / "a.png"
    alpha = picture.copy()
    alpha.putalpha(7)
    alpha.save(path)
    assert np.array_equal(np.asarray(read_picture(path)), np.asarray(picture))
    palette = picture.quantize(16)
    palette.save(path, transparency=bytes(range(16)))
    assert np.array_equal(np.asarray(read_picture(path)), np.asarray(palette.convert("RGB")))
    grey = picture.convert("L")
    for saved in (grey, grey.convert("LA"), grey.convert("1")):
        saved.save(path)
        found = np.asarray(read_picture(path))
        assert found.shape == (24, 20, 3) and np.array_equal(found[..., 0], np.asarray(saved.convert("L")))
    picture.convert("CMYK").save(tmp_path / "a.tif")
    assert np.array_equal(np.asarray(read_picture(tmp_path / "a.tif")), np.asarray(picture))


def test_lossy_formats_are_known(tmp_path):
    for name, options, lossy in [
        ("a.png", {}, None),
        ("a.jpg", {}, "JPEG"),
        ("a.webp", {}, "WEBP"),
        ("b.webp", {"lossless": True}, None),
    ]:
        image().save(tmp_path / name, **options)
        assert read_picture(tmp_path / name).info.get("lossy") == lossy


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n", "cannot be read"),  # no Ghostscript
        (png(20, 20, 16, 0), "is of mode I;16, expected 8 bits a channel"),
        (png(20, 20, 16, 2), "is of 16 bits, expected 8 bits a channel"),
        (b"P6 20 20 65535\n" + bytes(2400), "is of 16 bits, expected 8 bits a channel"),
        (png(20, 20, 16, 6), "is of 16 bits, expected 8 bits a channel"),
        (png(15, 80, 8, 2), "is 15x80, expected at least 16 pixels a side"),
        (png(9000, 9000, 8, 2), "is 9000x9000, expected .* at most 67108864 in all"),
        (png(2**31 - 1, 2**31 - 1, 8, 2), "cannot be read"),
    ],
)
def test_what_is_no_picture_is_named_before_any_of_it_is_decoded(tmp_path, content, message):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    tracemalloc.start()
    with pytest.raises(UserError, match=f"^{path}: {message}"):
        read_picture(path)
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


@pytest.mark.parametrize("end", [40, 300, -60])
def test_a_file_that_was_cut_off_is_named(tmp_path, end):
    path = tmp_path / "a.png"
    image().save(path)
    path.write_bytes(path.read_bytes()[:end])
    with pytest.raises(UserError, match="a.png: cannot be read"):
        read_picture(path)


def test_pipes_folders_and_impossible_paths_are_named_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for name in ("pipe.png", "", "none.png", "a\0b.png", "\ud800.png"):
        with pytest.raises(UserError) as error:
            read_picture(path_in(tmp_path, name))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["/etc/a.png", "../a.png", "b/../../a.png", 3, None])
def test_a_path_that_leaves_its_folder_is_refused(tmp_path, name):
    with pytest.raises(UserError, match="expected the path of an image in"):
        path_in(tmp_path, name)
    for inside in ("a.png", "b/../a.png", "..a.png", str(tmp_path / "a.png")):
        assert path_in(tmp_path, inside) == tmp_path / inside


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "PPM"])
def test_damaged_files_are_pictures_or_refused_in_one_line(tmp_path, kind):
    image().save(tmp_path / "whole", format=kind)
    content, rng = np.fromfile(tmp_path / "whole", dtype=np.uint8), np.random.default_rng(7)
    for _ in range(80):
        damaged = content.copy()
        damaged[rng.integers(len(content), size=rng.integers(1, 9))] = rng.integers(256)
        damaged[: rng.integers(1, len(content) + 1)].tofile(tmp_path / "a.png")
        try:
            assert read_picture(tmp_path / "a.png").mode == "RGB"
        except UserError as error:
            assert str(error).startswith(f"{tmp_path / 'a.png'}: ") and "\n" not in str(error)


def test_whatever_a_library_raises_becomes_one_line(tmp_path, monkeypatch):
    image().save(tmp_path / "a.png")

    def broken(self):
        raise struct.error("odd\nblock")

    monkeypatch.setattr(Image.Image, "getexif", broken)
    with pytest.raises(UserError, match=r"a.png: cannot be read \(odd block\)") as error:
        read_picture(tmp_path / "a.png")
    assert isinstance(error.value.__cause__, struct.error)


def test_pixels_of_an_array_follow_the_same_rules():
    assert as_rgb(image(3), "x").tobytes() == image(3).tobytes()
    with pytest.raises(UserError, match="x: is 8x8, expected at least 16"):
        as_rgb(image(0, (8, 8)), "x")
    assert pictures.MOST_PIXELS >= 8192**2
