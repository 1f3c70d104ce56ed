"""The convolutional networks of the paper, and narrower ones of the same kinds."""

from valleys.lab.tasks.networks.dense import densenet
from valleys.lab.tasks.networks.resnets import cifar_resnet, cifar_resnet18, resnet34, resnet50
from valleys.lab.tasks.networks.vgg import vgg16

__all__ = ["cifar_resnet", "cifar_resnet18", "densenet", "resnet34", "resnet50", "vgg16"]
