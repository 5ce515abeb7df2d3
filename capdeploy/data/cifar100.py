"""CIFAR-100: 60,000 colour images of 32x32 pixels, fine labels (Krizhevsky, 2009)."""

from __future__ import annotations

from functools import partial

from capdeploy.cifar import Edition, open_edition
from capdeploy.data import Kind
from capdeploy.values.checkpoint import Preprocessing

NAMES = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus
    butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach
    couch crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster
    house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
    motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear
    pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket
    rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
    sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip
    turtle wardrobe whale willow_tree wolf woman worm
"""

EDITION = Edition(
    title="cifar100",
    python="cifar-100-python",
    binary="cifar-100-binary",
    batches={"train": ("train",), "test": ("test",)},
    names=tuple(NAMES.split()),
    key=b"fine_labels",
    label_bytes=2,  # the coarse label comes first
    preprocessing=Preprocessing(
        height=32, width=32, mean=(0.5071, 0.4865, 0.4409), std=(0.2673, 0.2564, 0.2762)
    ),
)

DATASET = Kind(
    open=partial(open_edition, EDITION),
    layout="cifar100:ROOT with cifar-100-python or -binary, or train/CLASS/* and test/CLASS/*",
)
