"""Loading a policy: a Hugging Face directory becomes a model, a chat format and an image encoder on one device.

A policy directory is a plain one (config.json, tokenizer and chat template, preprocessor_config.json, safetensors);
nothing is downloaded. The starter policy of this package is the default.
"""

from __future__ import annotations

import copy
import inspect
import json
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field, field_validator

from share.kernel.config import ConfigModel
from share.kernel.errors import PolicyError
from share.kernel.policy.backbone import Backbone
from share.kernel.policy.chat import Chat
from share.kernel.policy.images import Idefics3Encoder, ImageEncoder, PatchEncoder, SquareEncoder

if TYPE_CHECKING:
    from share.kernel.contracts.vision import Pixels

STARTER = Path(__file__).parent / "starter"
_REMEDY = "point it at a Hugging Face model directory on this disk; nothing is downloaded"


class LoRAConfig(ConfigModel):
    """Low-rank adapters (arXiv 2106.09685): the adapter is trained, the weights below it are the reference policy."""

    rank: int = Field(default=16, ge=1)
    """Rank of each adapter."""
    alpha: float = Field(default=32.0, gt=0.0)
    """The adapter's output is scaled by alpha / rank."""
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    """Names of the linear layers of the language model that get an adapter."""
    rank_pattern: dict[str, int] = Field(default_factory=dict)
    """Ranks by layer name where they differ from `rank`, as peft takes them."""


class PolicyConfig(ConfigModel):
    """Which policy, and where it runs."""

    path: str | None = None
    """Policy directory; none means the starter policy of the package."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Number format of the weights and of the forward pass."""
    device: str = "auto"
    """Torch device (`cpu`, `cuda`, `cuda:1`); `auto` takes a GPU when there is one."""
    threads: int = Field(default=1, ge=1)
    """Threads of torch on the CPU. One is fastest for small policies, and by far on a machine that does other work as
    well; a large policy wants more. The bits of a run depend on it."""
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    """Attention of transformers; prefixes are shared with `sdpa` only."""
    lora: LoRAConfig | None = None
    """Train low-rank adapters instead of all weights."""
    freeze_vision: bool = False
    """Keep the vision tower as it is."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: less memory, about a third more time."""
    pixels_min: int | None = Field(default=None, ge=1)
    """Smallest area of an image as it is shown, in pixels; the directory's own when not set."""
    pixels_max: int | None = Field(default=None, ge=1)
    """Largest area of an image as it is shown, in pixels; the directory's own when not set."""
    system: str | None = None
    """System message; when not set, how to write an answer, unless the tokenizer was made for this format."""

    @field_validator("path")
    @classmethod
    def _is_a_policy_directory(cls, value: str | None) -> str | None:
        if value is not None and not (Path(value) / "config.json").is_file():
            raise ValueError(f"holds no config.json; {_REMEDY}")
        return value


class Policy:
    """A model that can be sampled and trained, with everything that turns prompts into its inputs.

    `model` is the transformers (or peft) model, in eval mode: nothing in it is random, so that an update repeats what
    its rollouts computed. `backbone` is None where the family's prefixes cannot be shared; then everything runs padded.
    """

    def __init__(
        self, config: PolicyConfig, model: Any, tokenizer: Any, chat: Chat, images: ImageEncoder, device: torch.device
    ) -> None:
        self.config = config
        self.model = model
        self.tokenizer = tokenizer
        self.chat = chat
        self.images = images
        self.device = device
        self.backbone: Backbone | None = None
        self.rebind()

    def rebind(self) -> None:
        """Look at `model` anew, after it was replaced."""
        shared = self.config.attention == "sdpa" and Backbone.fits(self.base)
        self.backbone = Backbone(self.base) if shared else None

    @property
    def base(self) -> Any:
        """The transformers model, without peft's wrapper; the adapter still acts in it."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    @property
    def image_mask_names(self) -> tuple[str, ...]:
        """Arguments of the model's forward that mark image tokens with 1."""
        accepted = inspect.signature(self.base.forward).parameters
        return tuple(name for name in ("mm_token_type_ids", "token_type_ids") if name in accepted)

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())

    def fit(self, pixels: Pixels) -> Pixels:
        """The image (uint8 HWC RGB) as the policy is shown it. What an operator's `fit` wants."""
        return self.images.fit(pixels)

    @contextmanager
    def without_adapter(self) -> Iterator[None]:
        """Inside, the policy is its own reference: the adapter is off."""
        if self.config.lora is None:
            raise PolicyError("policy.lora: this policy has no adapter to switch off")
        with self.model.disable_adapter():
            yield

    @contextmanager
    def checkpointed(self) -> Iterator[None]:
        """Inside, a forward keeps no activations when the configuration says so; for transformers, that is training."""
        self.model.train(self.config.gradient_checkpointing and torch.is_grad_enabled())
        try:
            yield
        finally:
            self.model.eval()

    def save(self, directory: str | Path) -> None:
        """Write a policy directory that `load_policy` and transformers read; an adapter is merged into the weights."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        model = self.model
        if self.config.lora is not None:
            model = copy.deepcopy(model).merge_and_unload()
        model.save_pretrained(directory, safe_serialization=True)
        self.tokenizer.save_pretrained(directory)
        settings = self.images.settings()
        (directory / "preprocessor_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def load_policy(config: PolicyConfig) -> Policy:
    """The policy of a directory. Raises PolicyError, one line, when it is not there or not a policy."""
    import transformers
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer

    directory = Path(config.path) if config.path is not None else STARTER
    if not (directory / "config.json").is_file():
        raise PolicyError(f"policy.path: {directory} holds no config.json; {_REMEDY}")
    device = device_of(config.device)
    torch.set_num_threads(config.threads)
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        settings = AutoConfig.from_pretrained(directory, local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
        images = read_image_encoder(directory, config, settings)
        model: Any = AutoModelForImageTextToText.from_pretrained(
            directory,
            config=settings,
            dtype=getattr(torch, config.dtype),
            attn_implementation=config.attention,
            local_files_only=True,
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise PolicyError(f"policy.path: {directory} cannot be loaded: {' '.join(str(error).split())}") from error
    chat = Chat(tokenizer, image_token(settings), config.system, IMAGE_TEXT.get(settings.model_type))
    model = _prepared(model, config).to(device)
    return Policy(config, model, tokenizer, chat, images, device)


def read_image_encoder(directory: Path, config: PolicyConfig, model: Any) -> ImageEncoder:
    """The image encoder that preprocessor_config.json and the model's configuration describe. Raises PolicyError."""
    path = directory / "preprocessor_config.json"
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PolicyError(f"policy.path: {path} cannot be read: {' '.join(str(error).split())}") from error
    kind, size = str(settings.get("image_processor_type", "")), settings.get("size") or {}
    mean, std = (tuple(settings.get(name) or (0.5,) * 3) for name in ("image_mean", "image_std"))
    if not kind.startswith(("Qwen2VL", "Qwen3VL")):
        whole = settings.get("max_image_size") or settings.get("crop_size") or size
        side = int(whole.get("height") or whole.get("longest_edge") or size.get("shortest_edge") or 0)
        if model.model_type not in _SQUARE_FAMILIES or not side:
            known = "Qwen-VL's and those of " + ", ".join(_SQUARE_FAMILIES)
            raise PolicyError(f"policy.path: {path} asks for {kind or 'no image processor'}; supported are {known}")
        encoder, num_tokens = _SQUARE_FAMILIES[model.model_type]
        return encoder(kind, side, num_tokens(model, side), mean, std)
    smallest = config.pixels_min or settings.get("min_pixels") or size.get("shortest_edge") or 56 * 56
    largest = config.pixels_max or settings.get("max_pixels") or size.get("longest_edge") or 28 * 28 * 1280
    if smallest > largest:
        raise PolicyError(f"policy.pixels_min: {smallest} is above pixels_max, {largest}")
    return PatchEncoder(
        pixels_min=int(smallest),
        pixels_max=int(largest),
        patch=int(settings.get("patch_size", 14)),
        merge=int(settings.get("merge_size", 2)),
        temporal_patch=int(settings.get("temporal_patch_size", 2)),
        mean=mean,
        std=std,
    )


def image_token(model: Any) -> int:
    """The token that stands for pixels. Raises PolicyError for a model that has none."""
    for name in ("image_token_id", "image_token_index"):
        if getattr(model, name, None) is not None:
            return int(getattr(model, name))
    raise PolicyError(f"policy.path: a {model.model_type} has no image token; it is no image-text-to-text model")


def _llava_tokens(model: Any, side: int) -> int:
    patches = (side // int(model.vision_config.patch_size)) ** 2
    return patches + int(model.vision_feature_select_strategy == "full")


def _gemma3_tokens(model: Any, side: int) -> int:
    return int(model.mm_tokens_per_image)


def _idefics3_tokens(model: Any, side: int) -> int:
    return int((side // int(model.vision_config.patch_size) // int(model.scale_factor)) ** 2)


_SQUARE_FAMILIES: dict[str, tuple[type[SquareEncoder], Callable[[Any, int], int]]] = {
    "llava": (SquareEncoder, _llava_tokens),
    "gemma3": (SquareEncoder, _gemma3_tokens),
    "idefics3": (Idefics3Encoder, _idefics3_tokens),
    "smolvlm": (Idefics3Encoder, _idefics3_tokens),
}
"""Families whose images all have one size, with their encoder and the tokens of an image of that side."""

_IDEFICS3_TEXT = ("<image>", "<fake_token_around_image><global-img><image><fake_token_around_image>")
IMAGE_TEXT = {
    "gemma3": ("<start_of_image>", "\n\n<start_of_image><image_soft_token><end_of_image>\n\n"),
    "idefics3": _IDEFICS3_TEXT,
    "smolvlm": _IDEFICS3_TEXT,
}
"""What a family's template writes for an image, and what its processor makes of that."""


def _prepared(model: Any, config: PolicyConfig) -> Any:
    """The model with its adapter, frozen where it shall be, in the mode it runs in."""
    if config.freeze_vision:
        for name, parameter in model.named_parameters():
            if not {"visual", "vision_tower", "vision_model"}.isdisjoint(name.split(".")):
                parameter.requires_grad_(False)
    if config.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    if config.lora is not None:
        from peft import LoraConfig, get_peft_model

        lora = config.lora
        targets = rf".*(language_model|text_model).*\.({'|'.join(lora.targets)})"
        settings: Any = LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,  # type: ignore[arg-type]
            target_modules=targets,
            rank_pattern=dict(lora.rank_pattern),
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft warns of tied embeddings, which get no adapter here
            model = get_peft_model(model, settings)
    model.eval()
    return model


def device_of(name: str) -> torch.device:
    """The torch device of that name; `auto` takes a GPU when there is one. Raises PolicyError."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise PolicyError(f"policy.device: {name!r} is no torch device; use cpu, cuda or auto") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise PolicyError(f"policy.device: {name!r}, but torch {torch.__version__} finds no GPU; use cpu or auto")
    return device


__all__ = [
    "IMAGE_TEXT",
    "STARTER",
    "LoRAConfig",
    "Policy",
    "PolicyConfig",
    "device_of",
    "image_token",
    "load_policy",
    "read_image_encoder",
]
