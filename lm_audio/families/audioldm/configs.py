"""Settings of diffusers' and transformers' config files, as settings of our networks.

A setting that our networks lack, with a value that would change the result, is an error.
"""

from lm_audio.families.audioldm.audio_language import ProjectionConfig
from lm_audio.families.audioldm.gpt2 import Gpt2Config
from lm_audio.saving.part_folder import Config, check_fixed

_GPT2_FIXED: Config = {
    "activation_function": "gelu_new",
    "add_cross_attention": False,
    "scale_attn_by_inverse_layer_idx": False,
    "scale_attn_weights": True,
}


def gpt2_config(config: Config) -> Gpt2Config:
    """Of GPT2Model or GPT2LMHeadModel."""
    check_fixed(config, _GPT2_FIXED)
    dim = config["n_embd"]
    return Gpt2Config(
        dim=dim,
        num_layers=config["n_layer"],
        num_heads=config["n_head"],
        hidden_dim=config.get("n_inner") or 4 * dim,
        num_positions=config["n_positions"],
        eps=config.get("layer_norm_epsilon", 1e-5),
    )


def num_vectors_of(config: Config) -> int:
    """The number of vectors that GPT-2 makes."""
    return int(config.get("max_new_tokens", 8))


def projection_config(config: Config) -> ProjectionConfig:
    """Of AudioLDM2ProjectionModel."""
    positions = config.get("use_learned_position_embedding") is not None
    return ProjectionConfig(
        first=config["text_encoder_dim"],
        second=config["text_encoder_1_dim"],
        dim=config["langauge_model_dim"],  # spelled like this in the files
        num_positions=config["max_seq_length"] if positions else 0,
    )
