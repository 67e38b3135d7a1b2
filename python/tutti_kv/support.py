# SPDX-License-Identifier: Apache-2.0
"""What of vLLM can be served, and how: every refusal and every choice with its reason.

Responsible for looking at vLLM's resolved configuration once, at start. Must not
know pools or requests. The one idea: what was not tried is refused with a sentence
that says what to change; it is never tried on a user's tokens.
"""

from typing import Any

from tutti_kv.config import Config
from tutti_kv.sequence import Hasher

TESTED = ("0.32.",)
# Speculation without layers of its own: what it proposes leaves no KV behind.
_DRAFTLESS = {"ngram", "ngram_gpu", "suffix"}


class Unsupported(ValueError):
    """A set-up that is refused, and what to change."""


def refuse(vllm_config: Any, kv_cache_config: Any) -> None:
    """Raise Unsupported for what can't be served."""
    transfer = vllm_config.kv_transfer_config
    parallel = vllm_config.parallel_config
    cache = vllm_config.cache_config
    groups = kv_cache_config.kv_cache_groups
    if transfer.kv_role != "kv_both":
        raise Unsupported(
            'TuttiConnector stores and loads: "kv_role" must be "kv_both", '
            f'not "{transfer.kv_role}"'
        )
    if len(groups) != 1:
        raise Unsupported(
            f"this model has {len(groups)} KV cache groups, TuttiConnector serves models of one; "
            "start with --disable-hybrid-kv-cache-manager, which runs it as one group"
        )
    spec = first_spec(groups[0].kv_cache_spec)
    if type(spec).__name__ not in ("FullAttentionSpec", "MLAAttentionSpec"):
        raise Unsupported(
            f"this model keeps {type(spec).__name__.removesuffix('Spec')} state, TuttiConnector "
            "serves full attention; if it mixes both, start with --disable-hybrid-kv-cache-manager"
        )
    if getattr(spec, "non_causal", False):
        raise Unsupported("this model's attention is not causal: a prefix alone fixes no KV")
    for size, name in (
        (parallel.pipeline_parallel_size, "--pipeline-parallel-size"),
        (parallel.decode_context_parallel_size, "--decode-context-parallel-size"),
        (parallel.prefill_context_parallel_size, "--prefill-context-parallel-size"),
        (parallel.nnodes, "--nnodes"),
    ):
        if size > 1:
            raise Unsupported(f"TuttiConnector does not serve {name} {size} yet; set it to 1")
    if not cache.prefix_caching_hash_algo.startswith("sha256"):
        raise Unsupported(
            f"--prefix-caching-hash-algo {cache.prefix_caching_hash_algo} gives other hashes in "
            "each process; use sha256 or sha256_cbor"
        )
    hash_block = kv_cache_config.hash_block_size or cache.block_size
    if hash_block != spec.block_size:
        raise Unsupported(
            f"vLLM hashes blocks of {hash_block} tokens and keeps blocks of {spec.block_size}; "
            "TuttiConnector needs them equal (--block-size)"
        )
    speculative = vllm_config.speculative_config
    if speculative is not None and speculative.method not in _DRAFTLESS:
        raise Unsupported(
            f"speculation by {speculative.method!r} keeps KV of its own; TuttiConnector serves "
            f"{', '.join(sorted(_DRAFTLESS))}"
        )


def first_spec(spec: Any) -> Any:
    """The specification of one layer, where the group holds one for each."""
    inner = getattr(spec, "kv_cache_specs", None)
    return next(iter(inner.values())) if inner else spec


def why_no_hits(vllm_config: Any) -> str | None:
    """Why restored blocks can't be used here although vLLM asks for them, or None.

    Prefix caching switched off by the user is no reason. Switched off by vLLM for
    the platform or the model it is: then the back-end can't prefill behind cached
    tokens, and restored blocks, equal byte for byte, give wrong tokens.
    """
    if vllm_config.cache_config.enable_prefix_caching:
        return None
    model = vllm_config.model_config
    device = vllm_config.device_config.device_type
    if model.use_mla and device != "cuda":
        return f"vLLM's MLA back-end on {device} can't continue behind cached tokens"
    if not vllm_config.scheduler_config.enable_chunked_prefill:
        return "with chunked prefill and prefix caching off nothing continues behind cached tokens"
    if not model.is_prefix_caching_supported:
        return "vLLM does not support prefix caching for this model"
    return None


def why_no_adapters(vllm_config: Any) -> str | None:
    """Why a LoRA adapter's loaded tensors do not tell what a request is computed with, or None."""
    lora = vllm_config.lora_config
    if lora is None:
        return None
    if vllm_config.parallel_config.enable_expert_parallel:
        return "with expert parallelism a worker reads only a part of an adapter"
    if lora.enable_tower_connector_lora:
        return "with adapters of the image tower, images are remembered by the adapter's name"
    if lora.enable_mixed_moe_lora_format or lora.enable_moe_shared_loras:
        return "adapters of experts in other layouts than the model's were not tried"
    return None


def block_hasher(vllm_config: Any, block_tokens: int) -> Hasher:
    """vLLM's own, as its engine makes it."""
    from vllm.utils.hashing import get_hash_fn_by_name
    from vllm.v1.core.kv_cache_utils import get_request_block_hasher

    algorithm = get_hash_fn_by_name(vllm_config.cache_config.prefix_caching_hash_algo)
    hasher: Hasher = get_request_block_hasher(block_tokens, algorithm)
    return hasher


def choose_mode(config: Config, vllm_config: Any) -> tuple[bool, str]:
    """(layer-wise?, the reason). Raises Unsupported.

    What was tried (tests/serving/test_failed_loads.py: abort, preemption and sharing
    between the step whose load failed and the processing of its output) decides. With
    one batch in flight both policies are right once we take the failed blocks out of
    vLLM's prefix cache ourselves. With two, "recompute" makes vLLM 0.32 compute over
    placeholder tokens and die, whoever the connector is; "fail" is right if output of
    preempted requests is dropped as well (requires_kv_delivery).
    """
    policy = vllm_config.kv_transfer_config.kv_load_failure_policy
    batches = vllm_config.max_concurrent_batches
    cost = {
        "recompute": "a bad block then costs the affected requests a recomputation",
        "fail": "a bad block then ends the affected requests with an error",
    }[policy]
    if config.mode == "preload":
        return False, "asked for"
    if config.mode == "layerwise":
        if batches > 1 and policy == "recompute":
            raise Unsupported(
                f'"mode": "layerwise" with {batches} batches in flight needs '
                '"kv_load_failure_policy": "fail" (vLLM recomputes wrongly then), or '
                "--no-async-scheduling"
            )
        return True, f"asked for; {cost}"
    if batches > 1:
        return False, f"{batches} batches are in flight; {cost}"
    if skips_hooks(vllm_config):
        return False, 'CUDA graphs skip the layers\' hooks; "mode": "layerwise" asks for others'
    return True, f"one batch is in flight; {cost}"


def skips_hooks(vllm_config: Any) -> bool:
    """Whether the engine may replay a layer without calling its hook."""
    device = vllm_config.device_config.device_type
    return device != "cpu" and not vllm_config.model_config.enforce_eager


def drops_preempted_output(config: Config, vllm_config: Any) -> bool:
    """Whether vLLM must forget what preempted requests have in flight.

    It would deliver a token sampled over a block whose load failed in that very step.
    """
    return vllm_config.max_concurrent_batches > 1 and choose_mode(config, vllm_config)[0]
