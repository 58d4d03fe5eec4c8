"""Runs a released network in the environment of its repository: a script that `against.py` starts.

It imports nothing of spikeloom, for the environment of an old repository need not have it: Python 3.8, torch and numpy
do. `sys.argv[1]` names a JSON file with

    repository, module   folder, and the file in it that defines the network
    builder, classes     function or class to call; names that are tried if it is empty
    arguments            what to call it with; those that it does not take are left out
    weights, inputs      .pt with tensors by name; .npz with `clip` [T, B, C, H, W] and `image` [B, C, H, W]
    stages, out          names of modules whose results are wanted; .npz to write: every stage and `logits`
"""

import importlib
import importlib.util
import inspect
import json
import os
import sys

import numpy
import torch


def without_cupy():
    """spikingjelly's neurons on the CPU: the released modules ask for the backend "cupy", which needs a GPU."""
    try:
        neuron = importlib.import_module("spikingjelly.clock_driven.neuron")
    except ImportError:
        return
    for name in ("MultiStepLIFNode", "MultiStepParametricLIFNode"):
        base = getattr(neuron, name, None)
        if base is not None:
            setattr(neuron, name, _on_cpu(base))


def _on_cpu(base):
    class OnCPU(base):
        def __init__(self, *arguments, **named):
            named["backend"] = "torch"
            super().__init__(*arguments, **named)

    OnCPU.__name__ = base.__name__
    return OnCPU


def load_module(repository, path):
    """The module at `path` of the repository, which finds its neighbours and the repository's packages."""
    full = os.path.join(repository, path)
    sys.path[:0] = [repository, os.path.dirname(full)]
    without_cupy()
    spec = importlib.util.spec_from_file_location("original_network", full)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["original_network"] = module
    spec.loader.exec_module(module)
    return module


def build(module, task):
    """The network, without the arguments its constructor does not know."""
    names = [task["builder"]] if task["builder"] else [name for name in task["classes"] if hasattr(module, name)]
    if not names or not hasattr(module, names[0]):
        raise SystemExit("{} has none of {}".format(task["module"], task["builder"] or task["classes"]))
    maker = getattr(module, names[0])
    if task["builder"]:
        return maker(**task["arguments"])
    known = inspect.signature(maker).parameters
    per_stage = "att_mode" in known  # SpikeVideoFormer indexes these by stage, Meta-SpikeFormer does not
    arguments = {}
    for name, value in task["arguments"].items():
        if name in known:
            spread = per_stage and name in task["per_stage"] and not isinstance(value, list)
            arguments[name] = [value] * 4 if spread else value
    return maker(**arguments)


def first(value):
    """The tensor of a result that may come with others."""
    return value[0] if isinstance(value, (tuple, list)) else value


def reset(model):
    """Membranes to 0: the neurons keep them between calls."""
    for part in model.modules():
        if part is not model and callable(getattr(part, "reset", None)):
            part.reset()


def main():
    with open(sys.argv[1]) as stream:
        task = json.load(stream)
    model = build(load_module(task["repository"], task["module"]), task)
    model.load_state_dict(torch.load(task["weights"], map_location="cpu"), strict=True)
    model.eval()
    inputs = numpy.load(task["inputs"])
    clip, image = torch.from_numpy(inputs["clip"]), torch.from_numpy(inputs["image"])
    results = {}

    def keep(name):
        return lambda part, given, result: results.__setitem__(name, first(result).detach().numpy())

    modules = dict(model.named_modules())
    hooks = [modules[name].register_forward_hook(keep(name)) for name in task["stages"]]
    with torch.no_grad():
        reset(model)
        model.forward_features(clip.flatten(0, 1) if task["without_time"] else clip)
        for hook in hooks:
            hook.remove()
        reset(model)
        model.T = clip.shape[0]
        results["logits"] = first(model(image)).numpy()
    numpy.savez(task["out"], **results)


if __name__ == "__main__":
    main()
