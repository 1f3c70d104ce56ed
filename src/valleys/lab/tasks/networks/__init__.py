"""The convolutional networks of the paper, and narrower ones of the same kinds."""

from valleys.lab.tasks.networks.dense import densenet
from valleys.lab.tasks.networks.imagenet_resnet import resnet34, resnet50
from valleys.lab.tasks.networks.resnet18 import cifar_resnet18
from valleys.lab.tasks.networks.thin_resnet import cifar_resnet
from valleys.lab.tasks.networks.vgg import vgg16

__all__ = ["cifar_resnet", "cifar_resnet18", "densenet", "resnet34", "resnet50", "vgg16"]
