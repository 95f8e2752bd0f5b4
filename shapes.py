"""The built-in dataset shapes100: 10 outlines times 10 textures, drawn at 32x32 pixels, the same on every machine."""

import torch

OUTLINES = ("circle", "square", "triangle", "star", "ring", "cross", "crescent", "bar", "half-disc", "hourglass")
TEXTURES = ("solid", "wide-stripes", "narrow-stripes", "checker", "dots",
            "circles", "sectors", "gradient", "grid", "speckle")  # fmt: skip


def draw_shapes100(n_train=20_000, n_test=5_000):
    """(images, targets) of train and of test, and the names of the classes, as cache.write() takes them.

    Place, size, rotation and colours are random, over a background with clutter and noise, so that no single pixel says
    much about the class.
    """
    splits = []
    for seed, n in ((0, n_train), (1, n_test)):
        generator = torch.Generator().manual_seed(seed)
        targets = torch.arange(n) % 100
        images = torch.cat([draw_shapes(part, 32, generator) for part in targets.split(1000)])
        splits.append((images.permute(0, 2, 3, 1).contiguous().numpy(), targets.numpy()))
    return *splits, [f"{texture} {outline}" for outline in OUTLINES for texture in TEXTURES]


def draw_shapes(targets, size, generator):
    """uint8 (B, 3, size, size) for class numbers (B,)."""
    B = len(targets)

    def uniform(low, high, *shape):
        return low + (high - low) * torch.rand(B, *shape, generator=generator)

    axis = (torch.arange(size) + 0.5) / size * 2 - 1
    y, x = axis.view(1, -1, 1), axis.view(1, 1, -1)
    pixel = 2 / size

    colours = uniform(0, 1, 6, 3, 1, 1)  # background, two of the texture, three of the clutter
    colours[:, 2] = (colours[:, 1] + uniform(0.35, 0.65, 3, 1, 1)) % 1  # far from the texture's other colour
    imgs = colours[:, 0].expand(B, 3, size, size)
    for k in range(3):
        cx, cy, radius = uniform(-1, 1, 1, 1), uniform(-1, 1, 1, 1), uniform(0.1, 0.3, 1, 1)
        blob = ((radius - torch.hypot(x - cx, y - cy)) / pixel + 0.5).clamp(0, 1)[:, None]
        imgs = torch.lerp(imgs, colours[:, 3 + k], blob)

    scale, angle = uniform(0.6, 0.9, 1, 1), uniform(0, 2 * torch.pi, 1, 1)
    dx, dy = x - uniform(-0.25, 0.25, 1, 1), y - uniform(-0.25, 0.25, 1, 1)
    u = (dx * angle.cos() + dy * angle.sin()) / scale  # the object's own axes
    v = (dy * angle.cos() - dx * angle.sin()) / scale
    speckle = uniform(0, 1, size, size).round()
    depth, paint = torch.empty(B, size, size), torch.empty(B, size, size)
    for k in range(10):
        rows = targets // 10 == k
        depth[rows] = outline(OUTLINES[k], u[rows], v[rows])
        rows = targets % 10 == k
        paint[rows] = texture(TEXTURES[k], u[rows], v[rows], speckle[rows])
    inside = (depth * scale / pixel + 0.5).clamp(0, 1)[:, None]  # edges are one pixel wide
    imgs = torch.lerp(imgs, torch.lerp(colours[:, 1], colours[:, 2], paint[:, None]), inside)
    imgs = imgs + 0.06 * torch.randn(imgs.shape, generator=generator)
    return (imgs.clamp(0, 1) * 255).round().to(torch.uint8)


def outline(name, u, v):
    """Depth inside the outline (negative outside) at the object's coordinates, in units of its radius."""
    r, phi = torch.hypot(u, v), torch.atan2(v, u)
    match name:
        case "circle":
            return 0.85 - r
        case "square":
            return 0.75 - torch.maximum(u.abs(), v.abs())
        case "triangle":
            return 0.5 - torch.stack([v, 0.866 * u - 0.5 * v, -0.866 * u - 0.5 * v]).amax(0)
        case "star":
            return 0.65 + 0.3 * torch.cos(5 * phi) - r
        case "ring":
            return 0.22 - (r - 0.7).abs()
        case "cross":
            long, short = torch.maximum(u.abs(), v.abs()), torch.minimum(u.abs(), v.abs())
            return torch.minimum(0.95 - long, 0.25 - short)
        case "crescent":
            return torch.minimum(0.95 - r, torch.hypot(u - 0.5, v) - 0.65)
        case "bar":
            return torch.minimum(0.95 - u.abs(), 0.35 - v.abs())
        case "half-disc":
            return torch.minimum(0.95 - r, v + 0.15)
        case "hourglass":
            return torch.minimum(0.9 - v.abs(), 0.8 * v.abs() + 0.05 - u.abs())


def texture(name, u, v, speckle):
    """Share of the second colour, 0 to 1, at the object's coordinates."""
    turn = 2 * torch.pi
    match name:
        case "solid":
            return torch.zeros_like(u)
        case "wide-stripes":
            return (torch.sin(turn * 1.1 * u) > 0).float()
        case "narrow-stripes":
            return (torch.sin(turn * 2.5 * u) > 0).float()
        case "checker":
            return (torch.sin(turn * 1.2 * u) * torch.sin(turn * 1.2 * v) > 0).float()
        case "dots":
            return (torch.cos(turn * 1.7 * u) + torch.cos(turn * 1.7 * v) > 0.7).float()
        case "circles":
            return (torch.cos(turn * 2.2 * torch.hypot(u, v)) > 0).float()
        case "sectors":
            return (torch.cos(4 * torch.atan2(v, u)) > 0).float()
        case "gradient":
            return (0.5 + 0.6 * u).clamp(0, 1)
        case "grid":
            return (torch.maximum(torch.cos(turn * 1.7 * u), torch.cos(turn * 1.7 * v)) > 0.6).float()
        case "speckle":
            return speckle
