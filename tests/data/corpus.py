"""Images that are bad, odd or good in every way we know, made by a script."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

Case = tuple[str, bytes, bool, tuple[str, ...]]


def _picture(side: int = 40, seed: int = 0, mode: str = "RGB") -> Image.Image:
    rough = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
    return Image.fromarray(rough).resize((side + 8, side)).convert(mode)


def _encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _oriented(orientation: int, seed: int, kind: str = "JPEG") -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return _encoded(_picture(seed=seed), kind, exif=exif)


def _chunk(kind: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)


def _png_bomb(width: int, height: int) -> bytes:
    """A PNG whose header promises so much, of which next to nothing is there."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    chunks = _chunk(b"IHDR", header) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def _jpeg_of_size(width: int, height: int) -> bytes:
    """A JPEG whose header is forged."""
    data = bytearray(_encoded(_picture(), "JPEG"))
    start = data.index(b"\xff\xc0") + 5
    data[start : start + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def _heic() -> bytes:
    return struct.pack(">I", 24) + b"ftypheic" + bytes(4) + b"mif1heic" + bytes(200)


def _tiff() -> bytes:
    return _encoded(_picture(), "TIFF")


def cases() -> list[Case]:
    """Return (file name, bytes, whether it can be used, the kinds of what is found)."""
    jpeg, png = _encoded(_picture(seed=1), "JPEG"), _encoded(_picture(seed=2), "PNG")
    webp, gif = _encoded(_picture(seed=3), "WEBP"), _encoded(_picture(seed=4), "GIF")
    bmp = _encoded(_picture(seed=5), "BMP")
    moving = {"save_all": True, "append_images": [_picture(seed=seed) for seed in (90, 91)]}
    deep = Image.fromarray(np.random.default_rng(6).integers(0, 2**16, (9, 12), np.uint16))
    broken = bytearray(png)
    broken[len(png) // 2] ^= 0xFF
    phone = _encoded(_picture(seed=7), "MPO", save_all=True, append_images=[_picture(seed=8)])
    bad: list[Case] = [
        ("empty.jpg", b"", False, ("empty",)),
        ("empty.png", b"", False, ("empty",)),
        ("text.jpg", b"no image", False, ("no image",)),
        ("page.jpg", b"<html><body>404 Not Found</body></html>", False, ("no image",)),
        ("vector.png", b"<svg xmlns='http://www.w3.org/2000/svg'/>", False, ("no image",)),
        ("zeros.jpg", bytes(5000), False, ("no image",)),
        ("heic.jpg", _heic(), False, ("no image",)),
        ("tiff.jpg", _tiff(), False, ("no image",)),
        ("pdf.png", b"%PDF-1.7\n" + bytes(100), False, ("no image",)),
        ("mac.jpg", b"\x00\x05\x16\x07" + bytes(4092), False, ("no image",)),
        ("header only.jpg", jpeg[:20], False, ("no image",)),
        ("header only.png", png[:8], False, ("no image",)),
        ("half.jpg", jpeg[: len(jpeg) // 2], False, ("truncated",)),
        ("last rows.jpg", jpeg[:-60], False, ("truncated",)),
        ("no end mark.jpg", _encoded(_picture(seed=9), "JPEG")[:-2], False, ("truncated",)),
        ("half.png", png[: len(png) // 2], False, ("truncated",)),
        ("half.gif", gif[: len(gif) // 2], False, ("truncated",)),
        ("half.bmp", bmp[: len(bmp) // 2], False, ("truncated",)),
        ("half.webp", webp[: len(webp) // 2], False, ("undecodable",)),
        ("broken.png", bytes(broken), False, ("undecodable",)),
        ("bomb.png", _png_bomb(20_000, 20_000), False, ("too large",)),
        ("large bomb.png", _png_bomb(2**31 - 1, 2**31 - 1), False, ("too large",)),
        ("forged.jpg", _jpeg_of_size(65_500, 65_500), False, ("too large",)),
        ("real bomb.png", _encoded(Image.new("1", (9000, 9000)), "PNG"), False, ("too large",)),
        ("moving.webp", _encoded(_picture(), "WEBP", **moving), False, ("animated",)),
        ("palette.bmp", _encoded(_picture(mode="P"), "BMP"), False, ("palette",)),
    ]
    good: list[Case] = [
        ("plain.jpg", jpeg, True, ()),
        ("plain.png", png, True, ()),
        ("plain.webp", webp, True, ()),
        ("plain.gif", gif, True, ()),
        ("plain.bmp", bmp, True, ()),
        ("trailing.jpg", _encoded(_picture(seed=10), "JPEG") + b"junk" * 50, True, ()),
        ("progressive.jpg", _encoded(_picture(seed=11), "JPEG", progressive=True), True, ()),
        ("grey.jpg", _encoded(_picture(seed=12, mode="L"), "JPEG"), True, ()),
        ("alpha.png", _encoded(_picture(seed=13, mode="RGBA"), "PNG"), True, ()),
        ("palette.png", _encoded(_picture(seed=14, mode="P"), "PNG"), True, ()),
        ("bits.png", _encoded(_picture(seed=15, mode="1"), "PNG"), True, ()),
        ("deep.png", _encoded(deep, "PNG"), True, ()),
        ("phone.jpg", phone, True, ()),
        ("LOUD.JPG", _encoded(_picture(seed=16), "JPEG"), True, ()),
        ("one pixel.png", _encoded(Image.new("RGB", (1, 1), (9, 8, 7)), "PNG"), True, ()),
        ("narrow.png", _encoded(Image.new("RGB", (1, 3000), (7, 8, 9)), "PNG"), True, ()),
        ("cmyk.jpg", _encoded(_picture(seed=17, mode="CMYK"), "JPEG"), True, ("cmyk",)),
        ("moving.gif", _encoded(_picture(seed=18), "GIF", **moving), True, ("animated",)),
        ("a jpeg.png", _encoded(_picture(seed=19), "JPEG"), True, ("mislabelled",)),
        ("a png.jpg", _encoded(_picture(seed=20), "PNG"), True, ("mislabelled",)),
        ("a webp.jpg", _encoded(_picture(seed=21), "WEBP"), True, ("mislabelled",)),
        ("odd exif.jpg", _oriented(77, 22), True, ()),
        ("turned.png", _oriented(6, 23, "PNG"), True, ("rotated",)),
    ]
    turned: list[Case] = [
        (f"turned {n}.jpg", _oriented(n, 30 + n), True, ("rotated",) if n > 1 else ())
        for n in range(1, 9)
    ]
    return bad + good + turned


def write(root: Path) -> list[Case]:
    """Write every case into two classes of a folder, and return them with their paths below it."""
    found = []
    for number, (name, data, usable, kinds) in enumerate(cases()):
        label = "ab"[number % 2]
        (root / label).mkdir(parents=True, exist_ok=True)
        (root / label / name).write_bytes(data)
        found.append((f"{label}/{name}", data, usable, kinds))
    return found
