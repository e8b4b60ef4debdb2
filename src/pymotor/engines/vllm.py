"""What vLLM's server calls its options, and which of them PyMotor sets itself.

The table of switches is that of `vllm serve` 0.32 (options made with argparse's BooleanOptionalAction).
"""

from __future__ import annotations

from pymotor.engines.command_line import CommandLineStyle

_SWITCHES = """
allow_credentials allow_deprecated_quantization async_scheduling cohere_is_reasoning_model cudagraph_metrics
data_parallel_external_lb data_parallel_hybrid_lb dcp_q_replicate disable_cascade_attn disable_chunked_mm_input
disable_custom_all_reduce disable_fastapi_docs disable_hybrid_kv_cache_manager
disable_nccl_for_dp_synchronization disable_sliding_window disable_uvicorn_access_log enable_auto_tool_choice
enable_batch_sharded_sampling enable_chunked_prefill enable_cumem_allocator enable_dbo enable_elastic_ep
enable_ep_weight_filter enable_eplb enable_expert_parallel enable_fault_tolerance enable_flash_late_interaction
enable_flashinfer_autotune enable_force_include_usage enable_hc_sp enable_layerwise_nvtx_tracing
enable_log_deltas enable_log_outputs enable_log_requests enable_logging_iteration_details enable_lora
enable_mamba_cache_stochastic_rounding enable_mamba_shared_prefix_checkpoint enable_mfu_metrics
enable_mixed_moe_lora_format enable_mm_embeds enable_moe_shared_loras enable_nccl_comm_suspend
enable_offline_docs enable_per_request_metrics enable_prefix_caching enable_prompt_embeds
enable_prompt_tokens_details enable_request_id_headers enable_return_routed_experts enable_scale_out
enable_server_load_tracking enable_shm_tensor_arena enable_sleep_mode enable_ssl_refresh
enable_tokenizer_info_endpoint enable_tower_connector_lora enable_trace_replay enforce_eager
exclude_tools_when_tool_choice_none fail_on_environ_validation fully_sharded_loras interleave_mm_strings
jit_monitor_verbose kv_cache_metrics kv_sharing_fast_prefill language_model_only log_error_stack
long_prefill_token_threshold_adaptive mm_device_do_normalize mm_encoder_only numa_bind ray_workers_use_nsight
return_sampling_mask return_tokens_as_token_ids scheduler_reserve_full_isl skip_mm_profiling skip_tokenizer_init
sleep_mode_offload_cudagraph specialize_active_lora swa_bounded_replay tokens_only trust_remote_code
trust_request_chat_template trust_request_mm_kwargs use_fp64_gumbel use_replayssm use_tqdm_on_load
"""

STYLE = CommandLineStyle(
    switches=frozenset(_SWITCHES.split()),
    flags=frozenset(
        {"aggregate_engine_logging", "data_parallel_multi_port_external_lb", "disable_log_stats", "grpc", "headless"}
    ),
    json_lists=frozenset({"allowed_origins", "allowed_methods", "allowed_headers"}),
    repeated=frozenset({"middleware"}),
)

OWN_OPTIONS = frozenset({"enable_multi_endpoints", "kv_dialect", "ec_dialect"})
"""Keys in `engine_config` that mean something to PyMotor and nothing to vLLM."""

OWN_SWITCHES = frozenset({"enable_multi_endpoints"})
"""Those of them that are booleans."""

_PLACED = """
model host port uds data_parallel_rank data_parallel_address data_parallel_start_rank data_parallel_size_local
data_parallel_external_lb data_parallel_hybrid_lb data_parallel_multi_port_external_lb nnodes node_rank master_addr
master_port headless
"""
PLACED_OPTIONS = frozenset(_PLACED.split())
"""Options that follow from where an instance is placed: the user's value is not passed on."""

PLACED_FOR_SEVERAL_NODES = frozenset({"nnodes", "master_port"})
"""Those that the user may set for instances of several nodes."""

MASTER_PORT = 29501
"""Where the nodes of a rank that spans several meet, by vLLM's own default."""

CPU_ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
}
"""What vLLM on a CPU is started with unless env.json says otherwise: 1 GiB of KV, no pinning of threads (several
engines share the cores), no questions to the network."""


def server_command(python: str, model: str) -> tuple[str, ...]:
    """How the server is started, up to its first option."""
    if python:
        return (python, "-m", "vllm.entrypoints.cli.main", "serve", model)
    return ("vllm", "serve", model)
