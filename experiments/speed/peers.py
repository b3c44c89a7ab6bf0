"""One peer, run once for every line that comes in: `python peers.py PEER MODEL.onnx BATCH THREADS`.

PEER is torch, onnxruntime or openvino, with -float32 or -bfloat16 behind it. It prints its version,
then the seconds of each run, a line each; of the processor if there is one thread. predictor.py
starts it with an interpreter that has the peer. Torch's network is torchvision's ResNet-50 with its
strides where the paper has them, as in keras.applications, so that all compute the same graph.
"""

import sys
import time

import numpy as np


def open_torch(precision, file, images):
    """Torch as its own tutorials run it on a CPU: eager, channels last."""
    import torch

    try:
        # torchvision's wheel for CPUs lacks these two, and does not import without them.
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor a) -> Tensor")
        from torchvision.models import resnet50
    except RuntimeError:
        from torchvision.models import resnet50
    torch.set_num_threads(THREADS)
    model = resnet50().eval().to(memory_format=torch.channels_last)
    for module in model.modules():
        if hasattr(module, "conv2") and module.conv2.stride == (2, 2):
            module.conv1.stride, module.conv2.stride = (2, 2), (1, 1)
    x = torch.from_numpy(images.transpose(0, 3, 1, 2)).contiguous(memory_format=torch.channels_last)

    def run():
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, precision == "bfloat16"):
            model(x)

    return torch.__version__, run


def open_onnxruntime(precision, file, images):
    """ONNX Runtime on our file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return onnxruntime.__version__, lambda: session.run(["logits"], {"image": images})


def open_openvino(precision, file, images):
    """OpenVINO on our file; bfloat16 is what it chooses where the processor has it."""
    import openvino

    hint = {"float32": "f32", "bfloat16": "bf16"}[precision]
    settings = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": THREADS}
    model = openvino.Core().read_model(file)
    model.reshape({"image": images.shape})
    compiled = openvino.compile_model(model, "CPU", settings)
    return openvino.__version__, lambda: compiled(images)


OPENERS = {"torch": open_torch, "onnxruntime": open_onnxruntime, "openvino": open_openvino}

if __name__ == "__main__":
    peer, file, batch, threads = sys.argv[1:]
    THREADS = int(threads)
    name, _, precision = peer.partition("-")
    pixels = np.random.default_rng(0).uniform(0, 255, (int(batch), 224, 224, 3))
    version, once = OPENERS[name](precision, file, pixels.astype("float32"))
    print(version, flush=True)
    clock = time.process_time if THREADS == 1 else time.perf_counter
    for _ in sys.stdin:
        start = clock()
        once()
        print(clock() - start, flush=True)
