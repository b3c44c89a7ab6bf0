"""What one model file answers: `python answers.py FILE IMAGES.npy PROBABILITIES.npy`.

It is what a program for a small Linux computer, such as a Raspberry Pi, needs of LiteRT or ONNX
Runtime; arm64.py starts it twice, here and as ARM code.
"""

import json
import sys

import numpy as np


def open_tflite(file: str):
    """Return a function from one image, pixels from 0 to 255, to its probabilities."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(file, num_threads=1)
    interpreter.allocate_tensors()
    (image,), (scores,) = interpreter.get_input_details(), interpreter.get_output_details()

    def run(pixels: np.ndarray) -> np.ndarray:
        interpreter.set_tensor(image["index"], pixels[None].astype(image["dtype"]))
        interpreter.invoke()
        found = interpreter.get_tensor(scores["index"])[0]
        if scores["name"] != "logits":
            return found
        powers = np.exp(found - found.max())
        return powers / powers.sum()

    return run


def open_onnx(file: str):
    """Return the same for an ONNX file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    preprocessing = json.loads(session.get_modelmeta().custom_metadata_map["preprocessing"])
    axes = (2, 0, 1) if preprocessing["layout"] == "NCHW" else (0, 1, 2)

    def run(pixels: np.ndarray) -> np.ndarray:
        image = pixels.transpose(axes)[None].astype(np.float32)
        return session.run(["probabilities"], {"image": image})[0][0]

    return run


if __name__ == "__main__":
    file, images, probabilities = sys.argv[1:]
    run = open_onnx(file) if file.endswith(".onnx") else open_tflite(file)
    np.save(probabilities, np.stack([run(pixels) for pixels in np.load(images)]))
