"""Trains the map that lets pictures, films or sounds prompt a Make-An-Audio in the place of text.

    python recipes/train_prompt_map.py --preset tiny        # seconds, encoders of random weights
    python recipes/train_prompt_map.py --model make_an_audio/ --captions captions.txt \\
        --encoder clip-vit-large-patch14/
    python recipes/train_prompt_map.py --model runs/prompt_map/model --data runs/corpus \\
        --encoder larger_clap_general/ --out runs/sound_map

Only texts are needed: the vector of a text in the joint space of `--encoder` (CLIP for pictures and
films, CLAP for sounds) is mapped to the tokens that the text encoder of `--model` gives for the
same text. At generation, the vector of a picture or sound takes the place of the text's. Noise on
the vectors makes the map indifferent to the gap between the two kinds.

Texts are the lines of `--captions` and the captions of prepared corpora in `--data`. `OUT/model`
receives all files of `--model` (linked where possible), the encoder and the map, a model for
`lm_audio.load`: conditions={"image": "cat.png"}.

The loss is the squared error relative to the variance of the tokens: 1 is the error of their mean.
The weights with the lowest held-out loss are kept. Run the same command again to resume an
interrupted run; the losses are the same as without the interruption.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from lm_audio.cli.recipe import run_recipe
from lm_audio.conditioners.joint_spaces import Space
from lm_audio.data.manifest import SPLITS, choose_held_out, conditions_of, read_cuts
from lm_audio.data.synthetic_shards import CAPTIONS
from lm_audio.families.make_an_audio.original_layout import holds_original, read_original
from lm_audio.families.make_an_audio.prompts import PromptMap, PromptMapConfig
from lm_audio.families.make_an_audio.reading import (
    PICTURES,
    SOUNDS,
    TEXT_ENCODER,
    read_picture_space,
    read_sound_space,
    read_text,
)
from lm_audio.families.make_an_audio.text import ClapTextEncoder, TextTokens
from lm_audio.families.make_an_audio.writing import write_prompt_map, write_text
from lm_audio.saving.files import folder_of, read_json
from lm_audio.training.checkpoints import Checkpoints, check_finite, check_same_settings
from lm_audio.training.optimization import (
    EMA,
    Schedule,
    adamw,
    learning_rate_share,
    set_learning_rate,
)
from lm_audio.training.settings import check_least
from lm_audio.training.tracking import Tracker

MOST_KEPT = 4000  # texts as tokens, 150 kB each
MEASURED = 200  # texts for the variance
JOINTS = (" and ", " then ", " after ", " while ", " or ", " near ")
"""Of the texts that the tiny preset makes up."""


@dataclass(frozen=True, kw_only=True)
class Config:
    preset: Literal["tiny", "default"] = "default"
    model: Path | None = None
    """Folder of a Make-An-Audio; the tiny preset defaults to a text encoder of random weights."""
    encoder: Path | None = None
    """Folder of a CLIP or CLAP in transformers' layout; the tiny preset defaults to a CLIP with
    random weights."""
    captions: Path | None = None
    """Text file, one caption per line."""
    data: tuple[Path, ...] = ()
    """Prepared corpora with captions."""
    out: Path = Path("runs/prompt_map")
    """Folder for the model, checkpoints and log; an interrupted run in it resumes."""
    hidden_width: int = 1024
    noise: float = 0.5
    """Length of the noise that is added to vectors of length 1."""
    steps: int = 20_000
    batch_size: int = 64
    """Texts per step."""
    learning_rate: float = 3e-4
    """Peak learning rate."""
    warmup_steps: int = 200
    schedule: Schedule = "cosine"
    weight_decay: float = 0.01
    max_norm: float = 1.0
    """Maximum gradient norm; larger gradients are clipped."""
    average_decay: float = 0.999
    """Decay of the moving average of the weights, which is what is evaluated and saved."""
    held_out: float = 0.02
    """Share of texts to hold out."""
    evaluate_every: int = 500
    """Steps between evaluations, each of which saves a checkpoint."""
    evaluate_items: int = 200
    """Maximum number of held-out texts in an evaluation."""
    save_every: int = 250
    """Steps between checkpoints."""
    keep_last: int = 2
    """Recent checkpoints to keep in addition to the best one."""
    device: str = "cpu"
    seed: int = 0

    def __post_init__(self) -> None:
        check_least(self, hidden_width=1, steps=1, batch_size=1, warmup_steps=0, evaluate_every=1,
                    evaluate_items=1, save_every=1, keep_last=1)  # fmt: skip
        if not self.noise >= 0:
            raise ValueError(f"noise must be at least 0, got {self.noise}.")


PRESETS = {
    "default": Config(),
    "tiny": Config(
        preset="tiny",
        hidden_width=64,
        noise=0.1,
        steps=150,
        batch_size=16,
        learning_rate=1e-2,
        warmup_steps=5,
        average_decay=0.9,
        held_out=0.1,
        evaluate_every=50,
        save_every=10,
    ),
}


def main(config: Config) -> list[float]:
    """Trains to the end and returns the loss of every step."""
    model, encoder = read_sources(config)
    text, (name, space) = read_text_encoder(model), read_space(encoder)
    text.to(config.device)
    text.encoder.to(config.device)
    known = read_texts(config)
    held_out = sorted(choose_held_out(known, seed=0, share=config.held_out))
    train = sorted(known - {*held_out})
    examples = Examples(text, space, noise=config.noise, device=config.device)
    measured = torch.stack([examples.tokens(one) for one in train[:MEASURED]])
    variance = variance_of(measured)

    torch.manual_seed(config.seed)
    prompt_map = PromptMap(
        PromptMapConfig(
            in_width=space.dim,
            hidden_width=config.hidden_width,
            num_tokens=text.num_tokens,
            width=text.dim,
        )
    ).to(config.device)
    with torch.no_grad():
        prompt_map.mean.copy_(measured.mean(dim=0))
    optimizer = adamw(
        prompt_map, learning_rate=config.learning_rate, weight_decay=config.weight_decay
    )
    average = EMA(prompt_map, decay=config.average_decay)
    checkpoints = Checkpoints(config.out / "checkpoints", keep_last=config.keep_last)
    first_step, settings = 0, lasting(config, train, held_out)
    if (latest := checkpoints.latest()) is not None:
        saved = checkpoints.read(latest)
        check_same_settings(saved["settings"], settings, path=latest.path)
        prompt_map.load_state_dict(saved["average"])
        average.restart()
        prompt_map.load_state_dict(saved["map"])
        optimizer.load_state_dict(saved["optimizer"])
        first_step = latest.step

    tracker = Tracker(config.out / "log", after=first_step, active=True)
    losses: list[float] = []
    progress = tqdm(range(first_step, config.steps), initial=first_step, total=config.steps)
    for step in progress:
        share = learning_rate_share(
            step, steps=config.steps, warmup_steps=config.warmup_steps, schedule=config.schedule
        )
        set_learning_rate(optimizer, share * config.learning_rate)
        vectors, tokens = examples.batch(train, config, step=step)
        loss = F.mse_loss(prompt_map(vectors), tokens) / variance
        loss.backward()
        norm = float(torch.nn.utils.clip_grad_norm_(prompt_map.parameters(), config.max_norm))
        losses.append(float(loss.detach()))
        check_finite(losses[-1], norm, step=step, checkpoints=checkpoints)
        optimizer.step()
        optimizer.zero_grad()
        average.update(step)
        progress.set_postfix(loss=f"{sum(losses[-50:]) / len(losses[-50:]):.3f}")
        values = {"loss": losses[-1], "gradient norm": norm, "rate": share}
        tracker.numbers({f"train/{key}": v for key, v in values.items()}, step=step + 1)

        done, held_out_loss = step + 1, None
        evaluates = done % config.evaluate_every == 0 or done == config.steps
        if not (evaluates or done % config.save_every == 0):
            continue
        with average.swapped():
            averaged = {key: v.clone() for key, v in prompt_map.state_dict().items()}
            if evaluates:
                held_out_loss = evaluate(prompt_map, held_out, examples, config) / variance
                check_finite(held_out_loss, 0, step=step, checkpoints=checkpoints)
                if checkpoints.is_best(held_out_loss):
                    write_prompt_map(
                        config.out / "model", prompt_map, model=model, encoder=encoder, name=name
                    )
                tracker.numbers({"held out/loss": held_out_loss}, step=done)
                progress.write(f"step {done}: held-out loss {held_out_loss:.3f}")
        state = {"settings": settings, "map": prompt_map.state_dict(), "average": averaged}
        state["optimizer"] = optimizer.state_dict()
        checkpoints.save(state, step=done, loss=held_out_loss)
    tracker.close()
    print(f"Wrote the model to {config.out / 'model'}. Log: tensorboard --logdir {config.out}")
    return losses


class Examples:
    """Texts as vectors and tokens, the latest of which are kept."""

    def __init__(self, text: TextTokens, space: Space, *, noise: float, device: str) -> None:
        self._text, self._space = text, space
        self._noise, self._device = noise, device
        self._kept: dict[str, tuple[Tensor, Tensor]] = {}

    def tokens(self, text: str) -> Tensor:
        """The tokens [L, D] of a text."""
        return self._pair(text)[1].float()

    def vector(self, text: str) -> Tensor:
        """The vector [D] of a text."""
        return self._pair(text)[0]

    def batch(self, texts: Sequence[str], config: Config, *, step: int) -> tuple[Tensor, Tensor]:
        """Vectors [B, D] with noise, and tokens [B, L, D]: a function of the seed and the step."""
        random = np.random.default_rng([config.seed, step])
        chosen = [texts[int(i)] for i in random.integers(len(texts), size=config.batch_size)]
        vectors = torch.stack([self.vector(text) for text in chosen])
        noise = torch.from_numpy(random.normal(size=vectors.shape)).float()
        noise = noise * self._noise * vectors.shape[1] ** -0.5
        tokens = torch.stack([self.tokens(text) for text in chosen])
        return F.normalize(vectors + noise, dim=-1).to(self._device), tokens.to(self._device)

    def _pair(self, text: str) -> tuple[Tensor, Tensor]:
        if text not in self._kept:
            while len(self._kept) >= MOST_KEPT:
                del self._kept[next(iter(self._kept))]
            (vector,) = self._space.embed_texts([text])
            self._kept[text] = vector.clone(), self._text.encode(text).half().cpu()
        return self._kept[text]


@torch.no_grad()
def evaluate(
    prompt_map: PromptMap, held_out: Sequence[str], examples: Examples, config: Config
) -> float:
    """The mean squared error for held-out texts, without noise."""
    errors = []
    for text in held_out[: config.evaluate_items]:
        made = prompt_map(examples.vector(text)[None].to(config.device))[0].cpu()
        errors.append(float(F.mse_loss(made, examples.tokens(text))))
    return sum(errors) / len(errors)


def variance_of(tokens: Tensor) -> float:
    """The mean squared distance of the tokens [n, L, D] of texts to their mean at each place."""
    return max(float((tokens - tokens.mean(dim=0)).square().mean()), 1e-8)


def read_sources(config: Config) -> tuple[Path, Path]:
    """The folders of the model and of the encoder; the tiny preset makes missing ones up."""
    for option, given, what in (
        ("--model", config.model, "a Make-An-Audio"),
        ("--encoder", config.encoder, "a CLIP or CLAP"),
    ):
        if given is None and config.preset != "tiny":
            raise ValueError(f"The preset {config.preset!r} needs {option} with {what}.")
    made_up = config.out / "data"
    if (config.model is None or config.encoder is None) and not made_up.is_dir():
        make_up_encoders(made_up)
    return folder_of(config.model or made_up / "text"), folder_of(
        config.encoder or made_up / "clip"
    )


def read_text_encoder(model: Path) -> TextTokens:
    if holds_original(model):
        return read_original(model).text
    if not (model / TEXT_ENCODER).is_dir():
        raise ValueError(f"{model} is no Make-An-Audio: it has no {TEXT_ENCODER}.")
    return read_text(model)


def read_space(encoder: Path) -> tuple[str, Space]:
    """The joint space, and the name of its folder in a model."""
    kind = read_json(encoder / "config.json").get("model_type")
    if kind == "clip":
        return PICTURES, read_picture_space(encoder)
    if kind == "clap":
        return SOUNDS, read_sound_space(encoder)
    raise ValueError(f"Expected a CLIP or a CLAP in {encoder}, got a model of type {kind}.")


def read_texts(config: Config) -> set[str]:
    """All different captions; at least two."""
    found = set()
    if config.captions is not None:
        try:
            lines = config.captions.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"Could not read {config.captions} as UTF-8 text.") from error
        found |= {line.strip() for line in lines if line.strip()}
    for folder in config.data:
        for split in SPLITS:
            for cut in read_cuts(folder, split):
                texts = conditions_of(cut).get("text")
                found |= {*texts} if isinstance(texts, list) else set()
    if not found and config.preset == "tiny":
        known = [text for texts in CAPTIONS.values() for text in texts]
        found = {f"{a}{b}{c}" for a in known for b in JOINTS for c in known if a != c}
    if len(found) < 2:
        raise ValueError("Pass at least two captions, as --captions or in corpora as --data.")
    return found


def lasting(config: Config, train: Sequence[str], held_out: Sequence[str]) -> dict[str, Any]:
    """Settings that must not change when a run resumes."""
    free = {"model", "encoder", "captions", "data", "out", "evaluate_every", "evaluate_items",
            "save_every", "keep_last", "device"}  # fmt: skip
    kept = {name: value for name, value in asdict(config).items() if name not in free}
    facts = "\n".join([*train, "", *held_out])
    return {**kept, "data": hashlib.sha256(facts.encode()).hexdigest()[:16]}


def make_up_encoders(folder: Path) -> None:
    """Writes a text encoder and a CLIP of random weights that know the words of the captions."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, CLIPConfig, CLIPModel, PreTrainedTokenizerFast

    words = sorted({x for texts in CAPTIONS.values() for text in texts for x in text.split()})
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    joints = [joint.strip() for joint in JOINTS]
    vocab = {word: i for i, word in enumerate([*special, *joints, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=["[CLS]", "$A", "[SEP]"], special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    new_tokenizer: Any = PreTrainedTokenizerFast  # untyped
    fast = new_tokenizer(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=20
    )
    bert = BertConfig(
        vocab_size=len(vocab), hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=24, hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    tower = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
             "num_attention_heads": 2}  # fmt: skip
    shown = {"image_size": 16, "patch_size": 8}
    read = {"vocab_size": len(vocab), "max_position_embeddings": 24, "eos_token_id": 3}
    clip = CLIPConfig(text_config=tower | read, vision_config=tower | shown, projection_dim=24)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        parts: list[Any] = [ClapTextEncoder(bert, 16), CLIPModel(clip)]
        for part in parts:
            part.eval()
            for _, weight in sorted(part.named_parameters()):  # alike in all versions
                if weight.dim() == 2:
                    torch.nn.init.normal_(weight, std=weight.shape[1] ** -0.5)
    write_text(folder / "text", TextTokens(parts[0], fast, num_tokens=12))
    parts[1].save_pretrained(folder / "clip")
    fast.save_pretrained(folder / "clip")


if __name__ == "__main__":
    run_recipe(main, PRESETS, description=__doc__)
