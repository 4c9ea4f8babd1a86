"""Trains a small text encoder: distils a large sentence encoder into 2.3 million parameters.

    python recipes/train_text_encoder.py --preset tiny      # seconds, a synthetic teacher
    python recipes/train_text_encoder.py --sentences runs/sentences.txt \\
        --teacher sentence-transformers/all-MiniLM-L6-v2 --corpora data/effects data/music

`--teacher` is a folder or hub id of a sentence embedding that averages a transformer's outputs, as
MiniLM does; `--sentences` is a file from recipes/default_model/prepare_sentences.py. `OUT/model` is
the encoder: pass it as `--text-encoder` to recipes/train_stage.py (Duet's stages), which keeps it
frozen. report.json has its cosine similarity to the teacher on held-out sentences. For each of
`--corpora` it also has the accuracy of assigning unseen captions to the nearest class, with the
encoder, with the teacher, and with shared word pieces alone.

On one CPU core, the teacher takes 8 minutes to embed 140,000 sentences, which are stored in the
output folder; training takes 11 minutes. Both need 2.4 GB of memory.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm import trange

from audio_tokenizers.atomic import replacing
from audio_tokenizers.text import SentencePieceTokenizer
from lm_audio.cli.recipe import run_recipe
from lm_audio.conditioners.sentence import (
    SentenceEncoder,
    SentenceModel,
    SentenceModelConfig,
    sentence_embeddings,
)
from lm_audio.data.manifest import conditions_of, read_cuts
from lm_audio.networks.transformer import TransformerConfig
from lm_audio.training.optimization import adamw, learning_rate_share, set_learning_rate

Teacher = Callable[[Sequence[str]], Tensor]
"""Texts to embeddings [n, E] of length 1."""
LONGEST = 96  # maximum word pieces of a training sentence
NEIGHBOURS = 64  # batches that are sorted by length together, to reduce padding


@dataclass(frozen=True, kw_only=True)
class Config:
    preset: Literal["tiny", "default"] = "default"
    teacher: str | None = None
    """Folder or hub id of a sentence embedding. The tiny preset defaults to a synthetic one that
    ignores word order."""
    sentences: Path | None = None
    """Text file with one sentence per line; the tiny preset defaults to synthetic sentences."""
    corpora: tuple[Path, ...] = ()
    """Prepared corpora with unseen_captions.jsonl to evaluate the encoder on."""
    out: Path = Path("runs/text_encoder")
    vocab_size: int = 8000
    """Maximum number of word pieces."""
    embedding_dim: int = 96
    """Width of the word piece embeddings."""
    transformer: TransformerConfig
    steps: int = 1800
    batch_size: int = 128
    learning_rate: float = 2e-3
    warmup_steps: int = 150
    similarity_weight: float = 10.0
    """Weight of the squared error of similarities within a batch, relative to 1 for the cosine
    loss."""
    held_out: int = 2000
    """Number of sentences to hold out for evaluation."""
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    device: str = "cpu"
    seed: int = 0


PRESETS = {
    "tiny": Config(
        preset="tiny",
        vocab_size=320,
        embedding_dim=16,
        transformer=TransformerConfig(
            dim=32, num_layers=1, num_heads=2, hidden_dim=32, causal=False
        ),
        steps=100,
        batch_size=32,
        learning_rate=1e-2,
        warmup_steps=5,
        held_out=20,
        precision="float32",
    ),
    "default": Config(
        transformer=TransformerConfig(
            dim=256, num_layers=3, num_heads=4, hidden_dim=256, causal=False
        )
    ),
}


def main(config: Config) -> list[float]:
    """Trains to the end and returns the loss of every step."""
    teacher = read_teacher(config)
    sentences = read_sentences(config)
    learned, held_out = sentences[config.held_out :], sentences[: config.held_out]
    targets = taught(teacher, sentences, config.out / "teacher.safetensors")
    tokenizer = SentencePieceTokenizer.train(learned, config.vocab_size)
    tokens = tokenizer.encode(learned, max_length=LONGEST)
    lengths = tokens.mask.sum(dim=1)

    torch.manual_seed(config.seed)
    shape = SentenceModelConfig(
        transformer=config.transformer,
        vocab_size=tokenizer.vocab_size,
        embedding_dim=config.embedding_dim,
        sentence_dim=targets.shape[1],
    )
    model = SentenceModel(shape)
    model.embedding.weight.data.copy_(first_embeddings(teacher, tokenizer, config.embedding_dim))
    model.to(config.device)
    optimizer = adamw(model, learning_rate=config.learning_rate, weight_decay=0.01)
    batches = batches_of(lengths.numpy(), config)

    losses: list[float] = []
    progress = trange(config.steps)
    for step in progress:
        rows = torch.from_numpy(next(batches))
        L = int(lengths[rows].max())
        ids, mask = (x[rows, :L].to(config.device) for x in (tokens.tokens, tokens.mask))
        target = targets[config.held_out + rows].float().to(config.device)  # [B, E]
        share = learning_rate_share(
            step, steps=config.steps, warmup_steps=config.warmup_steps, schedule="cosine", final=0.0
        )
        set_learning_rate(optimizer, config.learning_rate * share)
        with torch.autocast(config.device, torch.bfloat16, enabled=config.precision == "bfloat16"):
            words = model(ids, mask)
        made = sentence_embeddings(words, mask)
        direction = (1 - (made * target).sum(dim=-1)).mean()
        similarity = (made @ made.T - target @ target.T).square().mean()
        loss = direction + config.similarity_weight * similarity
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        if step % 10 == 0:
            progress.set_postfix(loss=f"{np.mean(losses[-50:]):.3f}")

    encoder = finished(model.cpu(), tokenizer, held_out)
    encoder.save(config.out / "model")
    report = {
        "weights": sum(weight.numel() for weight in encoder.model.parameters()),
        "cosine": float(
            (embeddings(encoder, held_out) * targets[: config.held_out].float()).sum(dim=1).mean()
        ),
        "nearest_class": {
            folder.name: judge(folder, encoder, teacher) for folder in config.corpora
        },
    }
    with replacing(config.out / "report.json") as path:
        path.write_text(json.dumps(report, indent=2) + "\n")
    print(
        f"{json.dumps(report, indent=2)}\nWrote the encoder to {config.out / 'model'}\n"
        f"Next: recipes/train_stage.py --text-encoder {config.out / 'model'}"
    )
    return losses


def read_teacher(config: Config) -> Teacher:
    if config.teacher is not None:
        return transformers_teacher(config.teacher, device=config.device)
    if config.preset != "tiny":
        raise ValueError(
            "No teacher; pass --teacher with the folder or hub id of a sentence embedding, such as "
            "sentence-transformers/all-MiniLM-L6-v2."
        )

    def made_up(texts: Sequence[str]) -> Tensor:
        rows = [sum(_direction(word) for word in text.split()) for text in texts]
        return F.normalize(torch.tensor(np.array(rows), dtype=torch.float32), dim=-1)

    return made_up


def _direction(word: str) -> np.ndarray:
    digest = hashlib.sha256(word.encode()).digest()
    return np.random.default_rng(list(digest)).standard_normal(24)


def transformers_teacher(source: str, *, device: str) -> Teacher:
    """The normalised mean of a transformer's outputs, as in sentence-transformers' MiniLM."""
    from transformers import AutoModel, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        model = AutoModel.from_pretrained(
            source, dtype=torch.float32, trust_remote_code=False, use_safetensors=True
        )
    except (OSError, ValueError) as error:
        raise ValueError(
            f"Found no sentence embedding at {source}; pass a folder with config.json, "
            "model.safetensors and the tokenizer, or a hub id."
        ) from error
    model = model.to(device).eval()

    def embed(texts: Sequence[str]) -> Tensor:
        made: list[Tensor] = []
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16):
            for start in range(0, len(texts), 128):
                given = tokenizer(
                    list(texts[start : start + 128]),
                    padding=True, truncation=True, max_length=256, return_tensors="pt",
                ).to(device)  # fmt: skip
                hidden = model(**given).last_hidden_state
                made.append(sentence_embeddings(hidden, given["attention_mask"]).cpu())
        return torch.cat(made)

    return embed


def read_sentences(config: Config) -> list[str]:
    """Distinct sentences in random order."""
    if config.sentences is not None:
        found = config.sentences.read_text(encoding="utf-8").splitlines()
    elif config.preset == "tiny":
        things, ways = ["dog", "bell", "drum", "door", "horn", "owl"], ["soft", "loud", "far"]
        found = [
            f"{a} {x} and a {b} {y}" for a in ways for x in things for b in ways for y in things
        ]
        np.random.default_rng(config.seed).shuffle(found)
    else:
        raise ValueError(
            "No sentences to train on; create them with recipes/default_model/prepare_sentences.py "
            "and pass the file as --sentences."
        )
    sentences = list(dict.fromkeys(line for line in found if line.strip()))
    if len(sentences) < config.held_out + config.batch_size:
        raise ValueError(
            f"Got {len(sentences)} sentences, too few for --held-out {config.held_out} and "
            f"--batch-size {config.batch_size}; add sentences or lower these options."
        )
    return sentences


def taught(teacher: Teacher, sentences: list[str], path: Path) -> Tensor:
    """The teacher's embeddings [n, E], float16, cached in a file for the same sentences."""
    probe = teacher(sentences[:8])
    digest = hashlib.sha256("\n".join(sentences).encode()).hexdigest()
    if path.is_file():
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("sentences") == digest:
                kept: Tensor = file.get_tensor("embeddings")
                if F.cosine_similarity(kept[:8].float(), probe).min() > 0.99:
                    return kept
    order = sorted(range(len(sentences)), key=lambda i: len(sentences[i]))
    embedded = torch.empty(len(sentences), probe.shape[1], dtype=torch.float16)
    for start in trange(0, len(order), 1024, desc="teacher"):
        rows = order[start : start + 1024]
        embedded[rows] = teacher([sentences[i] for i in rows]).half()
    with replacing(path) as temporary:
        save_file({"embeddings": embedded}, temporary, metadata={"sentences": digest})
    return embedded


def first_embeddings(teacher: Teacher, tokenizer: SentencePieceTokenizer, dim: int) -> Tensor:
    """The principal components [V, dim] of the teacher's embeddings of single word pieces."""
    V = tokenizer.vocab_size
    pieces = tokenizer.decode(torch.arange(V)[:, None])
    found = [i for i, piece in enumerate(pieces) if piece.strip()]
    embedded = torch.randn(V, dim)
    made = teacher([pieces[i] for i in found])
    _, _, axes = torch.linalg.svd(made - made.mean(dim=0), full_matrices=False)
    axes = axes * axes.sum(dim=1, keepdim=True).sign()  # the sign depends on the machine
    components = (made - made.mean(dim=0)) @ axes[:dim].T
    embedded[found] = F.pad(components / components.std(), (0, dim - components.shape[1]))
    return embedded


def batches_of(lengths: np.ndarray, config: Config) -> Iterator[np.ndarray]:
    """Endless batches of row numbers [B], each of sentences of similar length."""
    rng = np.random.default_rng(config.seed)
    B = config.batch_size
    while True:
        order = rng.permutation(len(lengths))
        batches = []
        for start in range(0, len(order), NEIGHBOURS * B):
            part = order[start : start + NEIGHBOURS * B]
            part = part[np.argsort(lengths[part], kind="stable")]
            batches += [part[i : i + B] for i in range(0, len(part) - B + 1, B)]
        for i in rng.permutation(len(batches)):
            yield batches[i]


def finished(
    model: SentenceModel, tokenizer: SentencePieceTokenizer, texts: Sequence[str]
) -> SentenceEncoder:
    """The encoder, scaled so that word outputs have unit RMS, with weights exact in float16."""
    words = torch.cat([x[1:] for x in SentenceEncoder(model, tokenizer).encode(texts[:500])])
    size = words.square().mean().sqrt()
    for weight in (model.head.weight, model.head.bias):  # does not change directions
        weight.data /= size
    for weight in model.parameters():
        weight.data = weight.data.half().float()
    return SentenceEncoder(model, tokenizer)


@torch.no_grad()
def embeddings(encoder: SentenceEncoder, texts: Sequence[str]) -> Tensor:
    """Sentence embeddings [n, E] of length 1."""
    made: list[Tensor] = []
    for start in range(0, len(texts), 256):
        part = texts[start : start + 256]
        read = encoder.tokenizer.encode(part, max_length=encoder.max_length)
        words = encoder.model(read.tokens, read.mask)
        made.append(sentence_embeddings(words, read.mask))
    return torch.cat(made)


def judge(folder: Path, encoder: SentenceEncoder, teacher: Teacher) -> dict[str, float]:
    """How often an unseen caption is nearest to the mean caption embedding of its own class."""
    seen: dict[str, list[str]] = {}
    for cut in read_cuts(folder, "train"):
        texts = conditions_of(cut)["text"]
        texts = texts if isinstance(texts, list) else [str(texts)]
        seen.setdefault(str(conditions_of(cut)["label"]), []).extend(texts)
    labels = {cut.id: str(conditions_of(cut)["label"]) for cut in read_cuts(folder, "held_out")}
    unseen: list[tuple[str, str]] = []
    for line in (folder / "unseen_captions.jsonl").read_text().splitlines():
        given = json.loads(line)
        label = given.get("label") or labels[given["id"]]
        unseen += [(text, label) for text in given.get("captions", [given.get("text")])]
    unseen = [(text, label) for text, label in dict.fromkeys(unseen) if label in seen]
    if not unseen:
        raise ValueError(
            f"{folder} has no unseen captions for any class in its training split; prepare more "
            "clips, or remove it from --corpora."
        )
    seen = {label: list(dict.fromkeys(texts)) for label, texts in seen.items()}

    def pieces(texts: Sequence[str]) -> Tensor:
        read = encoder.tokenizer.encode(texts)
        bags = torch.zeros(len(texts), encoder.tokenizer.vocab_size)
        return F.normalize(bags.scatter_add_(1, read.tokens, read.mask.float()), dim=-1)

    def accuracy(embed: Teacher) -> float:
        means = torch.stack([embed(texts).mean(dim=0) for texts in seen.values()])
        nearest = (embed([text for text, _ in unseen]) @ F.normalize(means, dim=-1).T).argmax(dim=1)
        names = list(seen)
        return float(
            np.mean([names[i] == label for i, (_, label) in zip(nearest, unseen, strict=True)])
        )

    return {
        "wordings": len(unseen),
        "encoder": accuracy(lambda texts: embeddings(encoder, texts)),
        "teacher": accuracy(teacher),
        "word pieces": accuracy(pieces),
    }


if __name__ == "__main__":
    run_recipe(main, PRESETS, description=__doc__)
