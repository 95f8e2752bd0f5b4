"""shapes.py: the built-in set is what it was, is balanced, and is not too easy."""

import inspect

import numpy as np
import pytest
import torch

import shapes

# Means over all pixels and channels: of the first image of each class of train (a row for each outline), of ten images
# that the second thousand begins with, and of the first ten of test.
FIRST_100 = [
    [105.61, 113.87, 144.92, 128.98, 181.92, 144.2, 126.63, 95.1, 112.66, 75.66],
    [155.49, 112.75, 111.22, 133.55, 119.36, 65.44, 95.96, 150.7, 169.56, 154.33],
    [82.75, 202.43, 132.62, 79.16, 129.08, 203.33, 109.66, 174.9, 148.09, 97.03],
    [113.54, 126.46, 103.82, 137.05, 157.51, 173.95, 115.71, 131.55, 151.66, 80.27],
    [110.71, 94.84, 116.32, 148.14, 144.96, 103.76, 149.61, 154.45, 140.61, 151.34],
    [213.82, 151.21, 128.77, 164.71, 164.83, 158.45, 109.25, 110.03, 171.86, 153.94],
    [132.29, 131.03, 80.26, 92.86, 123.28, 112.37, 130.05, 130.5, 118.35, 86.25],
    [129.84, 139.18, 148.73, 126.72, 149.74, 182.97, 111.22, 91.85, 156.63, 65.23],
    [93.52, 116.14, 117.56, 127.95, 66.54, 167.85, 103.61, 72.17, 117.97, 123.77],
    [102.5, 170.33, 127.84, 155.22, 161.66, 143.98, 130.12, 89.94, 140.99, 135.56],
]
SECOND_THOUSAND = [182.28, 109.05, 118.41, 152.25, 111.51, 161.18, 71.2, 149.53, 99.91, 65.28]
FIRST_TEST = [126.55, 150.38, 164.41, 159.14, 158.44, 116.53, 170.02, 109.67, 141.17, 144.54]
# Of image 7 of train, the left half of row 16.
ROW_OF_GREEN = [94, 95, 83, 64, 61, 63, 45, 52, 36, 60, 74, 67, 31, 54, 43, 57]
TOLERANCE = 0.1  # for means: platforms' mathematical functions differ in their last bits, and so may a few pixels


@pytest.fixture(scope="module")
def drawn():
    return shapes.draw_shapes100(n_train=2000, n_test=1000)


def means(images):
    return images.reshape(len(images), -1).mean(1)


def test_images_are_those_that_were_measured_on(drawn):
    """Any change in how the set is drawn makes another set of it, whose results cannot stand beside the earlier ones."""
    (train, _), (test, _), _ = drawn
    assert means(train[:100]) == pytest.approx(np.ravel(FIRST_100), abs=TOLERANCE)
    assert means(train[1000:1010]) == pytest.approx(np.array(SECOND_THOUSAND), abs=TOLERANCE)
    assert means(test[:10]) == pytest.approx(np.array(FIRST_TEST), abs=TOLERANCE)
    assert train[7, 16, :16, 1].tolist() == pytest.approx(ROW_OF_GREEN, abs=1)


def test_labels_and_classes_are_those_that_were_measured_on(drawn):
    (_, train), (_, test), classes = drawn
    assert train.tolist() == [*range(100)] * 20
    assert test.tolist() == [*range(100)] * 10
    assert [classes[c] for c in (0, 1, 10, 37, 99)] == [
        "solid circle",
        "wide-stripes circle",
        "solid square",
        "gradient star",
        "speckle hourglass",
    ]
    assert len(set(classes)) == 100


def test_sizes_are_those_that_were_measured_on():
    sizes = {name: parameter.default for name, parameter in inspect.signature(shapes.draw_shapes100).parameters.items()}
    assert sizes == {"n_train": 20_000, "n_test": 5_000}


def test_gradient_ends_at_both_colours():
    u = torch.tensor([-2.0, -0.5, 0.0, 0.5, 2.0])
    torch.testing.assert_close(shapes.texture("gradient", u, u, u), torch.tensor([0, 0.2, 0.5, 0.8, 1]))


def test_set_is_drawn_the_same_every_time_and_test_is_not_train():
    (images, targets), (test_images, _), _ = shapes.draw_shapes100(n_train=200, n_test=200)
    (again, _), _, _ = shapes.draw_shapes100(n_train=200, n_test=200)
    assert images.shape == (200, 32, 32, 3)
    assert images.dtype == np.uint8
    assert np.array_equal(images, again)
    assert not np.array_equal(images, test_images)
    assert np.bincount(targets).tolist() == [2] * 100


def test_set_is_out_of_reach_of_a_linear_classifier(drawn):
    (images, targets), (test_images, test_targets), _ = drawn
    x, test_x = (torch.from_numpy(i.reshape(len(i), -1)).float() / 128 - 1 for i in (images, test_images))
    x, test_x = (torch.nn.functional.pad(v, (0, 1), value=1.0) for v in (x, test_x))
    one_hot = torch.nn.functional.one_hot(torch.from_numpy(targets)).float()
    weights = torch.linalg.solve(x.T @ x + 1e3 * torch.eye(x.shape[1]), x.T @ one_hot)  # ridge regression
    accuracy = ((test_x @ weights).argmax(1) == torch.from_numpy(test_targets)).float().mean()
    assert accuracy < 0.05  # chance is 0.01, and so it was with five times the images: 0.015
