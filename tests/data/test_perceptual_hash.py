"""Covers: perceptual hashes (src/data/images.py)."""

import random
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from src.data.duplicates import MAX_DISTANCE
from src.data.images import open_image, perceptual_hash


def scene(seed: int, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """Draw discs at places that the seed gives, independent of the size."""
    rng = random.Random(seed)
    image = Image.new("RGB", size, (rng.randrange(256), rng.randrange(256), rng.randrange(256)))
    draw, (width, height) = ImageDraw.Draw(image), size
    for _ in range(12):
        x, y, radius = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(0.05, 0.25) * height
        colour = (rng.randrange(256), rng.randrange(256), rng.randrange(256))
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    return image


def saved(image: Image.Image, quality: int) -> Image.Image:
    file = BytesIO()
    image.save(file, "JPEG", quality=quality)
    return open_image(file.getvalue())


def distance(first: Image.Image, second: Image.Image) -> int:
    hashes = [int(perceptual_hash(image), 16) for image in (first, second)]
    return (hashes[0] ^ hashes[1]).bit_count()


def test_hash_has_64_bits() -> None:
    image_hash = perceptual_hash(scene(1))
    assert len(image_hash) == 16
    assert int(image_hash, 16).bit_count() == 32, "half of the frequencies are above their median"


@pytest.mark.parametrize("seed", range(10))
def test_hash_survives_scaling_and_compression(seed: int) -> None:
    image = scene(seed)
    assert distance(image, image.resize((160, 120))) <= MAX_DISTANCE
    assert distance(image, image.resize((500, 300))) <= MAX_DISTANCE
    assert distance(image, saved(image, 40)) <= MAX_DISTANCE


def test_different_images_have_different_hashes() -> None:
    images = [scene(seed) for seed in range(40)]
    pairs = [(a, b) for place, a in enumerate(images) for b in images[:place]]
    assert min(distance(a, b) for a, b in pairs) > MAX_DISTANCE


@pytest.mark.parametrize("colour", ["black", "white", "grey", "red"])
@pytest.mark.parametrize("noise", [0, 2])
def test_plain_image_has_no_hash(colour: str, noise: int) -> None:
    image = Image.new("RGB", (200, 100), colour)
    rng = random.Random(1)
    if noise:
        grain = Image.frombytes("L", image.size, bytes(rng.randrange(noise + 1) for _ in range(200 * 100)))
        image = Image.composite(Image.new("RGB", image.size, "grey"), image, grain)
    assert perceptual_hash(saved(image, 70)) == ""


def test_faint_drawing_has_hash() -> None:
    image = Image.new("RGB", (200, 200), "white")
    ImageDraw.Draw(image).rectangle((60, 60, 140, 140), fill=(235, 235, 235))
    assert perceptual_hash(image)


@pytest.mark.real_data
def test_few_real_images_are_plain(real_mvsa: Path) -> None:
    paths = sorted((real_mvsa / "data").glob("*.jpg"))[::10]
    hashes = [perceptual_hash(open_image(path)) for path in paths]
    assert hashes.count("") <= 2
