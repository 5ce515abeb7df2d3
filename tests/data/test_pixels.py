"""Image files of every kind give the right pixels, and broken ones an error that is expected."""

import io
import resource
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image
from torchvision import transforms

from capdeploy import pixels
from capdeploy.values.checkpoint import Preprocessing


def noise(height=12, width=20, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def saved(tmp_path, image, name, **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


def rule(height, width, **changes):
    return Preprocessing(height=height, width=width, mean=(0,) * 3, std=(1,) * 3, **changes)


# What is decoded


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.ppm", "a.tif", "a.webp"])
def test_colours_come_back_as_they_were(tmp_path, name):
    options = {"lossless": True} if name.endswith("webp") else {}
    file = saved(tmp_path, Image.fromarray(noise()), name, **options)
    found = pixels.decode(file)
    assert found.dtype == np.uint8
    assert np.array_equal(found, noise())
    assert np.array_equal(pixels.decode(io.BytesIO(file.read_bytes())), noise())


def test_what_counts_is_the_content_and_not_the_suffix(tmp_path):
    file = saved(tmp_path, Image.fromarray(noise()), "a.png")
    assert np.array_equal(pixels.decode(file.rename(tmp_path / "a.jpg")), noise())


@pytest.mark.parametrize("name", ["grey.png", "grey.jpg", "grey.pgm"])
def test_grey_is_repeated(tmp_path, name):
    flat = np.full((8, 16), 77, np.uint8)
    found = pixels.decode(saved(tmp_path, Image.fromarray(flat), name))
    assert np.array_equal(found, np.full((8, 16, 3), 77))


def test_one_bit_is_black_and_white(tmp_path):
    bits = noise()[..., 0] > 127
    found = pixels.decode(saved(tmp_path, Image.fromarray(bits), "bits.png"))
    assert np.array_equal(found, np.repeat(bits[..., None], 3, axis=2) * 255)


def test_a_palette_is_looked_up(tmp_path):
    image = Image.fromarray(noise() // 128 * 255).quantize(8)
    found = pixels.decode(saved(tmp_path, image, "palette.png"))
    assert np.array_equal(found, noise() // 128 * 255)


@pytest.mark.parametrize("name", ["ink.tif", "ink.jpg"])
def test_inks_become_lights(tmp_path, name):
    cyan = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    found = pixels.decode(saved(tmp_path, cyan, name)).astype(int)
    assert abs(found - (0, 255, 255)).max() <= 3  # the JPEG is not exact


def test_transparency_is_dropped(tmp_path):
    layers = np.dstack([noise(), noise(seed=1)[..., :1]])
    file = saved(tmp_path, Image.fromarray(layers), "glass.png")
    assert np.array_equal(pixels.decode(file), noise())


@pytest.mark.parametrize("name", ["deep.png", "deep.tif", "deep.pgm"])
def test_sixteen_bits_keep_their_upper_byte(tmp_path, name):
    deep = np.array([[0, 255, 256], [0x1234, 0x7FFF, 0xFFFF]], np.uint16)
    found = pixels.decode(saved(tmp_path, Image.fromarray(deep), name))
    assert np.array_equal(found, np.repeat((deep >> 8)[..., None], 3, axis=2))


def test_sixteen_bits_with_the_upper_byte_first(tmp_path):
    big = Image.frombytes("I;16B", (2, 1), b"\x12\x34\xff\x00")
    found = pixels.decode(saved(tmp_path, big, "deep.tif"))
    assert found[0, :, 0].tolist() == [0x12, 0xFF]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.array([[0.0, 0.5]], np.float32), "floating-point"),
        (np.array([[0, 70_000]], np.int32), "32-bit"),
        (np.array([[0, -1]], np.int32), "32-bit"),
    ],
)
def test_values_of_an_unknown_range_are_refused(tmp_path, values, words):
    with pytest.raises(ValueError, match=words):
        pixels.decode(saved(tmp_path, Image.fromarray(values), "range.tif"))


def test_an_animation_gives_its_first_frame(tmp_path):
    frames = [Image.new("P", (8, 6), colour) for colour in (1, 2)]
    for frame in frames:
        frame.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    file = saved(tmp_path, frames[0], "a.gif", save_all=True, append_images=frames[1:])
    with Image.open(file) as image:
        assert image.n_frames == 2
    assert np.array_equal(pixels.decode(file), np.full((6, 8, 3), (255, 0, 0)))


def test_many_pages_give_the_first(tmp_path):
    pages = [Image.fromarray(noise(seed=seed)) for seed in (0, 1)]
    file = saved(tmp_path, pages[0], "a.tif", save_all=True, append_images=pages[1:])
    assert np.array_equal(pixels.decode(file), noise())


# The camera's rotation

LYING = {
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.transpose(1, 0, 2),
    6: lambda image: np.rot90(image, 1),
    7: lambda image: image[::-1, ::-1].transpose(1, 0, 2),
    8: lambda image: np.rot90(image, -1),
}


@pytest.mark.parametrize("turn", LYING)
@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.webp"])
def test_rotation_is_carried_out_once(tmp_path, name, turn):
    exif = Image.Exif()
    exif[0x0112] = turn
    lying = Image.fromarray(np.ascontiguousarray(LYING[turn](noise())))
    options = {"lossless": True} if name.endswith("webp") else {}
    assert np.array_equal(
        pixels.decode(saved(tmp_path, lying, name, exif=exif, **options)), noise()
    )


@pytest.mark.parametrize("turn", [3, 6])
def test_rotation_of_a_photograph(tmp_path, turn):
    upright = np.zeros((32, 48, 3), np.uint8)
    upright[:16, :16] = 255  # light in the upper left corner
    exif = Image.Exif()
    exif[0x0112] = turn
    lying = Image.fromarray(np.ascontiguousarray(LYING[turn](upright)))
    found = pixels.decode(saved(tmp_path, lying, "a.jpg", exif=exif, quality=95))
    assert found.shape == upright.shape
    assert abs(found.astype(int) - upright).max() < 30


def test_rotation_of_deep_grey(tmp_path):
    deep = np.arange(6, dtype=np.uint16).reshape(2, 3) << 8
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = Image.fromarray(np.ascontiguousarray(np.rot90(deep)))
    for name in ("deep.png", "deep.tif"):  # Pillow by itself fails at the second
        found = pixels.decode(saved(tmp_path, lying, name, exif=exif))
        assert np.array_equal(found[..., 0], deep >> 8)


def test_a_fault_elsewhere_in_the_camera_s_notes_does_no_harm(tmp_path):
    entries = [
        struct.pack("<HHI4s", 0x0112, 3, 1, struct.pack("<HH", 3, 0)),
        struct.pack("<HHI4s", 0x011A, 2, 4, b"abc\0"),  # words where a number belongs
    ]
    notes = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 2) + b"".join(entries) + bytes(4)
    upright = Image.new("RGB", (16, 16), "white")
    upright.paste("black", (0, 0, 8, 16))
    file = saved(tmp_path, upright, "a.jpg", exif=notes)
    found = pixels.decode(file)
    assert found[8, 2].min() > 200
    assert found[8, 13].max() < 50


@pytest.mark.parametrize("notes", [b"Exif\0\0II*\0", b"Exif\0\0", b"neither"])
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp"])
def test_notes_that_are_damaged_do_not_cost_the_image(tmp_path, name, notes):
    image = Image.new("RGB", (16, 16), (250, 250, 250))
    file = saved(tmp_path, image, name, exif=notes, **{"dpi": (72, 72)} if "jpg" in name else {})
    assert pixels.decode(file).min() > 240


# What is refused


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.gif", "a.tif", "a.webp", "a.bmp"])
def test_half_a_file_is_bad(tmp_path, name):
    file = saved(tmp_path, Image.fromarray(noise(64, 64)), name)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(pixels.BAD):
        pixels.decode(file)


@pytest.mark.parametrize(
    "content", [b"", b"<!DOCTYPE html><html>not found</html>", b"\xff\xd8\xff"]
)
def test_what_is_no_image_is_bad(tmp_path, content):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(pixels.BAD):
        pixels.decode(tmp_path / "a.jpg")


def test_a_folder_and_a_missing_file_are_bad(tmp_path):
    (tmp_path / "a.jpg").mkdir()
    for name in ("a.jpg", "b.jpg"):
        with pytest.raises(pixels.BAD):
            pixels.decode(tmp_path / name)


def header(width, height):
    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    packed = zlib.compress(bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(("width", "height"), [(100_000, 100_000), (10_000, 9_000)])
@pytest.mark.parametrize("action", ["error", "ignore"])
def test_a_bomb_is_not_unpacked(tmp_path, width, height, action):
    (tmp_path / "bomb.png").write_bytes(header(width, height))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with warnings.catch_warnings(), pytest.raises(pixels.BAD, match="pixels"):
        warnings.simplefilter(action)
        pixels.decode(tmp_path / "bomb.png")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024  # KiB


def test_postscript_does_not_run(tmp_path):
    file = saved(tmp_path, Image.fromarray(noise()), "a.eps")
    with pytest.raises(ValueError, match="PostScript"):
        pixels.decode(file.rename(tmp_path / "a.jpg"))


# To the input size


def owner(array):
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


@pytest.mark.parametrize(
    "size",
    [(12, 20), (240, 301), (301, 240), (20, 500), (57, 57), (256, 257), (224, 224), (32, 32)],
)
@pytest.mark.parametrize(("side", "short"), [(224, 256), (32, 32)])
def test_cropping_is_what_torchvision_does(size, side, short):
    image = noise(*size)
    theirs = transforms.Compose([transforms.Resize(short), transforms.CenterCrop(side)])
    ours = pixels.fit(image, rule(side, side, crop=side / short))
    assert ours.shape == (side, side, 3)
    assert np.array_equal(ours, np.asarray(theirs(Image.fromarray(image))))


@pytest.mark.parametrize("how", ["bilinear", "bicubic", "nearest"])
@pytest.mark.parametrize("resize", ["stretch", "short-side-then-centre-crop"])
def test_each_interpolation_is_pillow_s(how, resize):
    image = noise(40, 40)
    resample = Image.Resampling[how.upper()]
    found = pixels.fit(image, rule(16, 16, resize=resize, interpolation=how))
    assert np.array_equal(found, np.asarray(Image.fromarray(image).resize((16, 16), resample)))


def test_stretching_keeps_all_of_the_image():
    image = np.zeros((10, 40, 3), np.uint8)
    image[:, :20] = 200
    found = pixels.fit(image, rule(8, 8, resize="stretch", interpolation="nearest"))
    assert found.shape == (8, 8, 3)
    assert (found[:, :4] == 200).all()
    assert (found[:, 4:] == 0).all()


@pytest.mark.parametrize("size", [(10, 40), (40, 10), (10, 11), (300, 200)])
def test_an_input_that_is_not_square_is_filled(size):
    found = pixels.fit(np.full((*size, 3), 9, np.uint8), rule(24, 16, crop=0.8))
    assert found.shape == (24, 16, 3)
    assert (found == 9).all()  # no black edge


def test_an_image_of_the_input_size_is_left_alone():
    image = noise(16, 16)
    assert pixels.fit(image, rule(16, 16)) is image
    assert pixels.fit(image, rule(16, 16, resize="stretch", crop=0.5)) is image


@pytest.mark.parametrize("resize", ["stretch", "short-side-then-centre-crop"])
def test_what_is_cropped_away_is_not_kept(resize):
    found = pixels.fit(noise(64, 640), rule(16, 16, resize=resize))
    assert owner(found).nbytes == 16 * 16 * 3


def test_a_line_is_not_blown_up():
    with pytest.raises(ValueError, match="1000000 x 1 pixels are too thin"):
        pixels.fit(np.zeros((1, 1_000_000, 3), np.uint8), rule(224, 224))
