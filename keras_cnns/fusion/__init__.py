"""The same function with fewer operations, for any functional Keras model.

Batch normalisations go into the layers before them, RepVGG's branches into one convolution; what
does nothing at inference goes away. All sums are made in float64.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers

from keras_cnns.errors import UsageError
from keras_cnns.fusion.graph import Graph, Step, unfolded, without_identities
from keras_cnns.fusion.linear import Linear, linear_forms
from keras_cnns.layers import LocalResponseNormalization


def fuse(
    model: keras.Model,
    *,
    lrn: str = "native",
    norms: str = "native",
    identities: str = "merged",
) -> keras.Model:
    """Return a model that computes the same at inference, with fewer operations, in float32.

    Auxiliary heads, dropout and other layers of training alone are gone. A batch normalisation is
    folded into the convolution, depthwise, separable or dense layer before it, unless that one has
    an activation of its own or somebody else uses its output. A separable convolution that has no
    activation becomes the two that it is. Branches that are linear in the same
    map and are added up, as RepVGG's, become one convolution. Nested models are unfolded. The
    model itself is left as it is; the result has weights of its own.

    Args:
        model: any functional Keras model with a known number of channels.
        lrn: how a local response normalisation is computed: "native", by the backend's own
            operation, or "band", by a convolution, which ONNX Runtime and LiteRT run faster.
        norms: how a normalisation of a map is computed that nothing before it can take in, as
            DenseNet's: "native", or "depthwise", by a convolution of one pixel, whose weights keep
            a scale for each channel when they become int8.
        identities: what a sum of branches keeps of each channel itself, as RepVGG's do: "merged"
            into the sum's kernel, or "apart", a convolution of one pixel added to it. Merged, it is
            the kernel's largest weights, so that in int8 all others have coarse steps.

    Raises:
        UsageError: the model is not a functional one.

    >>> from keras_cnns import build
    >>> model = build("repvgg_a0", input_shape=(32, 32, 3), spec={"stem": "small"})
    >>> len(model.layers), len(fuse(model).layers)
    (157, 51)
    """
    if lrn not in ("native", "band"):
        raise UsageError(f'unknown lrn "{lrn}"; allowed are native, band')
    if norms not in ("native", "depthwise"):
        raise UsageError(f'unknown norms "{norms}"; allowed are native, depthwise')
    if identities not in ("merged", "apart"):
        raise UsageError(f'unknown identities "{identities}"; allowed are merged, apart')
    if not getattr(model, "_nodes", None):
        name = getattr(model, "name", model)
        raise UsageError(f'"{name}" is no functional model, or was not built: fuse reads its graph')
    graph, structure = unfolded(model)
    graph = without_identities(graph)
    linear = linear_forms(graph, norms)
    tensors = [keras.Input(batch_shape=x.shape, dtype=x.dtype, name=x.name) for x in model.inputs]
    known = dict(zip(graph.inputs, tensors, strict=True))
    copies = _Copies(lrn, identities, {step.operation.name for step in graph.steps})
    for step in _needed(graph, linear):
        found = linear.get(step.outputs[0])
        if found:
            known[step.outputs[0]] = copies.apply(found, known[found.source])
        else:
            args, kwargs = step.arguments.fill_in({k: known[v] for k, v in step.inputs.items()})
            made = copies.call(step.operation, *args, **kwargs)
            known.update(zip(step.outputs, keras.tree.flatten(made), strict=True))
    outputs = keras.tree.pack_sequence_as(structure, [known[value] for value in graph.outputs])
    inputs = keras.tree.pack_sequence_as(model._inputs_struct, tensors)
    return keras.Model(inputs, outputs, name=model.name)


def _needed(graph: Graph, forms: Mapping[int, Linear]) -> list[Step]:
    """Return the calls that the outputs still need, in their order."""
    makers = {value: step for step in graph.steps for value in step.outputs}
    wanted: set[int] = set()
    todo = list(graph.outputs)
    while todo:
        value = todo.pop()
        if value in wanted or value not in makers:
            continue
        form = forms.get(value)
        wanted.update(makers[value].outputs)
        todo += [form.source] if form else makers[value].inputs.values()
    return [step for step in graph.steps if step.outputs[0] in wanted]


class _Copies:
    """Layers of the new model, each with a name of its own."""

    def __init__(self, lrn: str, identities: str, taken: set[str]) -> None:
        self.lrn, self.identities, self.taken = lrn, identities, taken
        self.layers: dict[int, Any] = {}
        self.names: Counter[str] = Counter()

    def _config(self, layer: Any) -> dict[str, Any]:
        """Return what makes a layer like this one that computes in float32."""
        config = layer.get_config()
        self.names[layer.name] += 1
        again = self.names[layer.name]
        config["name"] = layer.name if again == 1 else f"{layer.name}_{again}"
        if layer.compute_dtype != "float32":
            config["dtype"] = "float32"
        if isinstance(layer, LocalResponseNormalization):
            config["form"] = self.lrn
        return config

    def _beside(self, layer_name: str, part: str) -> str:
        """Return a name for a layer that the model has not, beside one that it has."""
        name = f"{layer_name}_{part}"
        while name in self.taken:
            name += "_"
        self.taken.add(name)
        return name

    def apply(self, form: Linear, x: Any) -> Any:
        """Call a layer as the form says it is, with the form's weights."""
        use_bias = form.layer.use_bias or bool(np.any(form.bias))
        config = {**self._config(form.layer), **form.settings, "use_bias": use_bias}
        bias = [form.bias] if use_bias else []
        if type(form.layer) is layers.SeparableConv2D:
            name = self._beside(config["name"], "depthwise")
            return _separated(config, name, form.kernels, bias, x)
        layer = type(form.layer).from_config(config)
        if form.zeros:
            x = layers.ZeroPadding2D(form.zeros, name=self._beside(layer.name, "zeros"))(x)
        y, kernels = layer(x), form.kernels
        if self.identities == "apart" and _is_sum_in_place(form, x):
            kernel, diagonal = _without_diagonal(form.kernels[0])
            if np.abs(diagonal).max() > np.abs(kernel).max():
                kernels = (kernel,)
                name = self._beside(layer.name, "identity")
                own = layers.DepthwiseConv2D(1, use_bias=False, name=name)
                y = layers.Add(name=self._beside(layer.name, "sum"))([y, own(x)])
                own.set_weights([diagonal.reshape(1, 1, -1, 1)])
        layer.set_weights([*kernels, *bias])
        return y

    def call(self, operation: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a copy of a layer, with its weights; what has no state is called itself."""
        if not isinstance(operation, keras.Layer):
            return operation(*args, **kwargs)
        if id(operation) in self.layers:
            return self.layers[id(operation)](*args, **kwargs)
        copy = _made_again(operation, self._config(operation))
        self.layers[id(operation)] = copy
        made = copy(*args, **kwargs)
        if copy is not operation and operation.weights:
            copy.set_weights(operation.get_weights())
            if hasattr(copy, "finalize_state"):  # Normalization computes with what this derives
                copy.finalize_state()
        return made


def _made_again(layer: Any, config: dict[str, Any]) -> Any:
    """Return a layer like this one, or itself where it cannot be made again, as a Lambda."""
    refusals = (NotImplementedError, TypeError, ValueError)
    try:
        return type(layer).from_config(config)
    except refusals:
        pass
    # What Keras cannot make from its name may matter in training alone, or be an activation.
    of_training = ("_initializer", "_regularizer", "_constraint")
    bare = {key: value for key, value in config.items() if not key.endswith(of_training)}
    own = {"activation": None} if "activation" in config else {}
    try:
        copy = type(layer).from_config(bare | own)
    except refusals:
        return layer
    if own:
        copy.activation = layer.activation
    return copy


def _is_sum_in_place(form: Linear, x: Any) -> bool:
    """Return whether a form is one of several branches that give as many channels as they take."""
    return form.settings.get("padding") == "same" and form.kernels[0].shape[-1] == x.shape[-1]


def _without_diagonal(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a kernel without what each channel's middle pixel gives to itself, and that."""
    height, width, inputs, filters = kernel.shape
    channels = np.arange(filters)
    middle = (height // 2, width // 2, channels % inputs, channels)
    rest = kernel.copy()
    rest[middle] = 0
    return rest, kernel[middle]


def _separated(
    config: Mapping[str, Any],
    first_name: str,
    kernels: Sequence[np.ndarray],
    bias: list[np.ndarray],
    x: Any,
) -> Any:
    """Call a separable convolution as the two that it is, between which int8 rounds."""
    shared = {key: config[key] for key in ("data_format", "dtype")}
    first = layers.DepthwiseConv2D(
        depth_multiplier=config["depth_multiplier"],
        use_bias=False,
        name=first_name,
        **{k: config[k] for k in ("kernel_size", "strides", "padding", "dilation_rate")},
        **shared,
    )
    second = layers.Conv2D(config["filters"], 1, use_bias=bool(bias), name=config["name"], **shared)
    y = second(first(x))
    first.set_weights(kernels[:1])
    second.set_weights([kernels[1], *bias])
    return y
