"""Published models of the sizes for which one plans."""

from llmcore.config import GPT2, LLAMA

# 175B  [Brown et al. 2020, Table 2.1]
GPT3 = GPT2.with_(n_layers=96, d_model=12288, n_heads=96, d_ff=4 * 12288, context_length=2048)
# [Grattafiori et al. 2024, Table 3]
LLAMA_70B = LLAMA.with_(n_layers=80, d_model=8192, n_heads=64, d_ff=28672)
LLAMA_405B = LLAMA.with_(n_layers=126, d_model=16384, n_heads=128, d_ff=53248)
MODELS = {
    "GPT-2 124M": GPT2,
    "GPT-3 175B": GPT3,
    "Llama 3.1 8B": LLAMA,
    "Llama 3.1 70B": LLAMA_70B,
    "Llama 3.1 405B": LLAMA_405B,
}
