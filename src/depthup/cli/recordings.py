"""Recordings into what training reads: `data` and `tokenizer`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from depthup.cli.options import add_fields, at_least, command_parser, data_config, quiet
from depthup.errors import UserError


def data(words: list[str]) -> int:
    parser = command_parser(
        "data",
        "Say what is in a SOURCE of recordings, as a line or a page; or turn sources into shards that can be streamed\n"
        "in training: Lhotse Shar, mono FLAC or speech tokens, with checksums. That goes on where it was interrupted.",
    )
    parser.epilog = "examples: depthup data my-folder; depthup data train.jsonl --output shards/train"
    add = parser.add_argument
    add(
        "sources",
        nargs="*",
        metavar="SOURCE",
        help="manifest, table, folder, Lhotse cuts or supervisions, Shar, dataset:split",
    )
    add("--output", metavar="DIR", help="new directory for the shards")
    add("--tokenizer", metavar="DIR", help="speech tokenizer whose tokens are written instead of audio")
    add("--verify", metavar="DIR", help="compare shards with their checksums, and name those that are damaged")
    add("--look", metavar="PAGE", help="write an HTML page about one SOURCE: hours, speakers, odd transcripts, clips")
    add("--shard-clips", type=at_least(1), default=1000, help="clips per shard (default %(default)s)")
    add(
        "--num-workers",
        type=at_least(0),
        default=os.cpu_count(),
        help="processes that write (default %(default)s); 0: none",
    )
    add("--sampling-rate", type=at_least(0), default=16000, help="Hz (default %(default)s); 0 keeps each clip's own")
    add_fields(parser)
    options = parser.parse_args(words)
    if len(options.sources) == 1 and not (options.output or options.verify):
        from depthup.report.look import look_at, write_look

        found = look_at(options.sources[0], data_config(options))
        if options.look:
            write_look(found, Path(options.look), data_config(options))
        print(f"{found.told()}: {options.look or options.sources[0]}")
        return 0
    if options.look or bool(options.verify) == bool(options.sources) or bool(options.sources) != bool(options.output):
        raise UserError("data: give one SOURCE and perhaps --look PAGE, SOURCE... and --output DIR, or --verify DIR")
    from depthup.data.shards import make_shards

    if options.verify:
        return _verify(options.verify)
    manifest = make_shards(
        options.sources,
        options.output,
        data_config(options),
        shard_clips=options.shard_clips,
        sampling_rate=options.sampling_rate,
        num_workers=options.num_workers,
        tokenizer=options.tokenizer,
    )
    for kind, found in manifest["skipped"].items():
        print(f"skipped {found['clips']} clips: {kind}", file=sys.stderr)
    shards = len(manifest["shards"])
    print(f"{manifest['clips']} clips, {manifest['hours']:.2f} hours in {shards} shards: {options.output}")
    return 0


def _verify(directory: str) -> int:
    from depthup.data.shards import verify_shards

    damaged = verify_shards(directory)
    for line in damaged:
        print(f"depthup: {line}", file=sys.stderr)
    if not damaged:
        print(f"All shards are whole: {directory}")
    return 2 if damaged else 0


def tokenizer(words: list[str]) -> int:
    parser = command_parser(
        "tokenizer",
        "Make a speech tokenizer: k-means over the frames of an audio encoder (semantic tokens), the codebooks of a\n"
        "neural codec (acoustic tokens), or both. A recipe names it as its encoder; `depthup data` writes its tokens.",
    )
    parser.epilog = (
        "example: depthup tokenizer train.jsonl --encoder facebook/hubert-base-ls960 --layer 9 --clusters 500 "
        "--codec descript/dac_16khz --codec-streams 8 --output tokenizer"
    )
    add = parser.add_argument
    add("sources", nargs="*", metavar="SOURCE", help="recordings to cluster, as `depthup data` takes them")
    add("--output", metavar="DIR", required=True, help="new directory for the tokenizer")
    add("--encoder", help="Hugging Face audio encoder whose frames are clustered: hub id or directory")
    add("--layer", type=int, help="its transformer layer, 1 for the lowest (default: what the whole encoder puts out)")
    add("--clusters", type=int, default=500, help="semantic tokens (default %(default)s)")
    add("--codec", help="Hugging Face EnCodec, DAC or Mimi: hub id or directory")
    add("--codec-streams", type=int, help="its codebooks that are used, from the first (default all)")
    add("--hours", type=float, default=100.0, help="most hours of recordings to cluster (default %(default)s)")
    add("--seed", type=int, default=0, help="of the order of recordings and of the clustering (default %(default)s)")
    add("--audio-field", default="audio", help="field or column with the audio")
    add("--strict", action="store_true", help="stop at the first bad clip instead of skipping it")
    options = parser.parse_args(words)
    quiet()
    from depthup.config import DataConfig
    from depthup.speech_tokens.fit import make_tokenizer

    config = make_tokenizer(
        options.sources,
        options.output,
        encoder=options.encoder,
        layer=options.layer,
        clusters=options.clusters,
        codec=options.codec,
        codec_streams=options.codec_streams,
        hours=options.hours,
        seed=options.seed,
        data=DataConfig(audio_field=options.audio_field, strict=options.strict),
    ).config
    if fit := config.fit:
        print(
            f"{config.num_clusters} clusters of {fit['hours']:g} h ({fit['frames']:,} frames): "
            f"{fit['explained']:.1%} of the variance"
        )
    sizes = " + ".join(str(size) for size in config.codebook_sizes or [])
    print(f"{sizes} ids, {config.frame_rate:g} frames a second: {options.output}")
    return 0
