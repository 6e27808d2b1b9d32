"""
What llama-server 10068 printed, recorded: lines about memory, and a request at two levels.

Excerpts, with shorter paths; SmolLM2 135M and Gemma 3 270M at a context of 4096.
"""

# ruff: noqa: E501
from __future__ import annotations

#: SmolLM2 on the CPU, ``-lv 4``.
PLAIN = b"""\
0.00.022.654 I llama_model_loader: Dumping metadata keys/values. Note: KV overrides do not apply.
0.00.045.770 I print_info: file size   = 92.10 MiB (5.74 BPW)
0.00.146.605 I print_info: no_alloc              = 0
0.00.153.129 I load_tensors: offloaded 0/31 layers to GPU
0.00.153.152 I load_tensors:   CPU_Mapped model buffer size =    92.10 MiB
0.00.154.598 I llama_context: constructing llama_context
0.00.154.839 I llama_context:        CPU  output buffer size =     0.19 MiB
0.00.154.983 I llama_kv_cache:        CPU KV buffer size =    90.00 MiB
0.00.210.194 I llama_kv_cache: size =   90.00 MiB (  4096 cells,  30 layers,  1/1 seqs), K (f16)
0.00.214.419 I sched_reserve:        CPU compute buffer size =    17.51 MiB
0.00.214.482 I sched_reserve: reserve took 4.13 ms, sched copies = 1
"""

#: The same, with ``--no-mmap``.
UNMAPPED = PLAIN.replace(b"CPU_Mapped model", b"       CPU model")

#: The same, with ``--spec-type draft-simple`` and itself for the draft model: all of it twice.
DRAFT = PLAIN + PLAIN

#: The same, with ``--fit on -lv 5``: the engine's dry run comes first.
DRY_RUN = (
    b"""\
0.00.003.592 I common_params_fit_impl: getting device memory data for initial parameters:
0.00.237.638 I print_info: no_alloc              = 1
0.00.239.749 I load_tensors:          CPU model buffer size =     0.00 MiB
0.00.240.105 I llama_context: constructing llama_context
0.00.240.154 I llama_context:        CPU  output buffer size =     0.19 MiB
0.00.240.247 I llama_kv_cache:        CPU KV buffer size =     0.00 MiB
0.00.251.471 I sched_reserve:        CPU compute buffer size =    17.51 MiB
0.00.251.748 I common_memory_breakdown_print: | memory breakdown [MiB] | total   free    self |
0.00.251.766 I common_memory_breakdown_print: |   - Host               |                  199 |
"""
    + PLAIN
)

#: Gemma, whose sliding windows have a cache of their own, and of which some weights are repacked.
WINDOWS = b"""\
0.00.480.570 I load_tensors:   CPU_Mapped model buffer size =   235.16 MiB
0.00.480.571 I load_tensors:   CPU_REPACK model buffer size =    12.66 MiB
0.00.507.000 I llama_context: constructing llama_context
0.00.508.220 I llama_context:        CPU  output buffer size =     1.00 MiB
0.00.508.408 I llama_kv_cache:        CPU KV buffer size =    12.00 MiB
0.00.517.728 I llama_kv_cache:        CPU KV buffer size =    15.00 MiB
0.00.533.694 I sched_reserve:        CPU compute buffer size =    22.77 MiB
"""

#: SmolLM2 on two ``ggml-rpc-server``, ``-ngl 999 -ts 3,1``. Both are called RPC0 but for their place.
TWO_DEVICES = b"""\
0.00.048.176 I llama_prepare_model_devices: using device RPC0 (127.0.0.1:24765) (unknown id) - 9 MiB free
0.00.048.436 I llama_prepare_model_devices: using device RPC1 (127.0.0.1:22016) (unknown id) - 9 MiB free
0.00.177.950 I load_tensors: offloaded 31/31 layers to GPU
0.00.177.966 I load_tensors:   CPU_Mapped model buffer size =    28.69 MiB
0.00.177.968 I load_tensors: RPC0[127.0.0.1:22016] model buffer size =    41.37 MiB
0.00.177.969 I load_tensors: RPC0[127.0.0.1:24765] model buffer size =    50.73 MiB
0.00.178.100 I llama_context: constructing llama_context
0.00.331.947 I llama_context:        CPU  output buffer size =     0.19 MiB
0.00.332.399 I llama_kv_cache: RPC0[127.0.0.1:22016] KV buffer size =    18.00 MiB
0.00.342.162 I llama_kv_cache: RPC0[127.0.0.1:24765] KV buffer size =    72.00 MiB
0.00.403.163 I sched_reserve: RPC0[127.0.0.1:24765] compute buffer size =    16.38 MiB
0.00.403.170 I sched_reserve: RPC0[127.0.0.1:22016] compute buffer size =    16.38 MiB
0.00.403.171 I sched_reserve:        CPU compute buffer size =     6.26 MiB
"""

#: A start and a request, ``-lv 3``.
LEVEL_3 = b"""\
0.00.009.196 I cmn  common_param: common_params_print_info: verbosity = 3 (adjust with the `-lv N` CLI arg)
0.00.009.780 W srv  llama_server: CORS is set to allow all origins ('*') and no API key is set
0.00.011.153 I srv    load_model: loading model '/models/SmolLM2-135M-Instruct.Q4_1.gguf'
0.00.398.029 I srv    load_model: initializing, n_slots = 1, n_ctx_slot = 4096, kv_unified = 'true'
0.00.400.782 I srv  llama_server: model loaded
0.00.400.819 I srv  llama_server: listening on http://127.0.0.1:28464
0.00.972.176 I slot get_availabl: id  0 | task -1 | selected slot by LCP similarity, sim_best = 1.000 (> 0.100 thold), f_keep = 0.717
0.00.972.286 I slot launch_slot_: id  0 | task 17 | processing task, is_child = 0
0.00.972.310 W slot   operator(): id  0 | task 17 | need to evaluate at least 1 token for each active slot
0.01.253.056 I slot print_timing: id  0 | task 17 | prompt eval time =      14.54 ms /     1 tokens (   14.54 ms per token,    68.77 tokens per second)
0.01.253.131 I slot print_timing: id  0 | task 17 |        eval time =     266.18 ms /    16 tokens (   16.64 ms per token,    60.11 tokens per second)
0.01.253.145 I slot print_timing: id  0 | task 17 |       total time =     280.72 ms /    17 tokens
0.01.253.159 I slot print_timing: id  0 | task 17 |    graphs reused =         31
0.01.253.215 I slot      release: id  0 | task 17 | stop processing: n_tokens = 53, truncated = 0
0.01.253.851 I srv    operator(): operator(): cleaning up before exit...
"""

#: The same, ``-lv 4``.
LEVEL_4 = (
    b"""\
0.00.002.945 I cmn  common_param: common_params_print_info: build 1 (571d0d5) with GNU 11.4.0 for Linux x86_64
0.00.002.946 I cmn  common_param: common_params_print_info: verbosity = 4 (adjust with the `-lv N` CLI arg)
0.00.002.947 I cmn  common_param: device_info:
0.00.002.961 I cmn  common_param:   - CPU     : AMD EPYC (24105 MiB, 24105 MiB free)
0.00.003.187 I srv          init: using 5 threads for HTTP server
0.00.003.188 I srv          init: api_keys: ****cdef
0.00.003.498 W srv  llama_server: CORS is set to allow all origins ('*') and no API key is set
0.00.003.525 I srv         start: binding port with default address family
0.00.004.821 I srv    load_model: loading model '/models/SmolLM2-135M-Instruct.Q4_1.gguf'
0.00.004.822 I srv    load_model: local path '/models/SmolLM2-135M-Instruct.Q4_1.gguf'
"""
    + PLAIN
    + b"""\
0.00.153.957 I cmn  common_init_: added <|endoftext|> logit bias = -inf
0.00.214.637 I cmn  common_init_: warming up the model with an empty run - please wait ... (--no-warmup to disable)
0.00.264.458 I srv    load_model: initializing, n_slots = 1, n_ctx_slot = 4096, kv_unified = 'true'
0.00.264.627 I spec common_specu: no implementations specified for speculative decoding
0.00.264.648 I slot   load_model: id  0 | task -1 | new slot, n_ctx = 4096
0.00.264.746 I srv    load_model: prompt cache is enabled, size limit: 8192 MiB
0.00.271.250 I srv          init: init: chat template, example_format: '<|im_start|>system
You are a helpful assistant<|im_end|>
<|im_start|>user
Hello<|im_end|>
'
0.00.272.566 I srv          init: init: chat template, thinking = 0
0.00.272.693 I srv  llama_server: model loaded
0.00.272.717 I srv  llama_server: listening on http://127.0.0.1:39451
0.00.272.745 I srv  update_slots: all slots are idle
0.00.907.899 I srv  server_strea: conv_id= (empty=1)
0.00.908.331 I srv    operator(): chat format: peg-native
0.00.908.501 I slot get_availabl: id  0 | task -1 | selected slot by LCP similarity, sim_best = 1.000 (> 0.100 thold), f_keep = 0.717
0.00.908.520 I srv  get_availabl: updating prompt cache
0.00.908.588 I slot launch_slot_: id  0 | task -1 | sampler chain: logits -> ?penalties -> ?dry -> top-k
0.00.908.593 I slot launch_slot_: id  0 | task -1 | sampler params: \n\
\trepeat_last_n = 64, repeat_penalty = 1.000, frequency_penalty = 0.000, presence_penalty = 0.000
\tmirostat = 0, mirostat_lr = 0.100, mirostat_ent = 5.000
0.00.908.594 I slot launch_slot_: id  0 | task 17 | processing task, is_child = 0
0.00.908.600 I slot   operator(): id  0 | task 17 | new prompt, n_ctx_slot = 4096, n_keep = 0, task.n_tokens = 38
0.00.908.603 W slot   operator(): id  0 | task 17 | need to evaluate at least 1 token for each active slot
0.00.908.604 I slot   operator(): id  0 | task 17 | cached n_tokens = 37, memory_seq_rm [37, end)
0.00.908.632 I slot init_sampler: id  0 | task 17 | init sampler, took 0.01 ms, tokens: text = 38, total = 38
0.01.169.384 I slot print_timing: id  0 | task 17 | prompt eval time =      18.43 ms /     1 tokens (   18.43 ms per token,    54.25 tokens per second)
0.01.169.467 I slot print_timing: id  0 | task 17 |        eval time =     242.32 ms /    16 tokens (   15.14 ms per token,    66.03 tokens per second)
0.01.169.482 I slot print_timing: id  0 | task 17 |       total time =     260.75 ms /    17 tokens
0.01.169.496 I slot print_timing: id  0 | task 17 |    graphs reused =         31
0.01.173.821 I slot      release: id  0 | task 17 | stop processing: n_tokens = 53, truncated = 0
0.01.173.872 I srv  update_slots: all slots are idle
0.01.174.315 I srv    operator(): operator(): cleaning up before exit...
0.01.174.863 I common_memory_breakdown_print: | memory breakdown [MiB] | total   free    self |
"""
)


def lines(text: bytes) -> list[bytes]:
    """The lines, without their breaks."""
    return text.split(b"\n")[:-1]
