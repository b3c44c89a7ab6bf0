"""The blocks of the papers: functions from feature map to feature map (batch, h, w, channels).

Every block takes a Keras tensor or a `keras_cnns.trace.FeatureMap`, and a `name` that its layers'
names begin with.
"""

from keras_cnns.blocks.conv import BATCH_NORM, conv, conv_norm, norm_act, norm_conv, pool
from keras_cnns.blocks.dense import dense_block
from keras_cnns.blocks.heads import (
    Top,
    auxiliary_conv_head,
    auxiliary_head,
    classifier,
    pooled,
    predictions,
)
from keras_cnns.blocks.inception import chain, inception_block
from keras_cnns.blocks.mixer import mixer_block
from keras_cnns.blocks.plain import nin_block, vgg_block
from keras_cnns.blocks.repvgg import repvgg_block
from keras_cnns.blocks.residual import ORDERS, SHORTCUTS, residual_block

__all__ = [
    "BATCH_NORM",
    "ORDERS",
    "SHORTCUTS",
    "Top",
    "auxiliary_conv_head",
    "auxiliary_head",
    "chain",
    "classifier",
    "conv",
    "conv_norm",
    "dense_block",
    "inception_block",
    "mixer_block",
    "nin_block",
    "norm_act",
    "norm_conv",
    "pool",
    "pooled",
    "predictions",
    "repvgg_block",
    "residual_block",
    "vgg_block",
]
