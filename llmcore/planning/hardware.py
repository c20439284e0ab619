"""GPUs and their links, from the data sheets."""

from dataclasses import dataclass

from llmcore.planning.plan import Precision
from llmcore.quantities import amount, count


@dataclass(frozen=True)
class Hardware:
    """A GPU and its links to others. Each GPU has an adapter of its own to the other nodes.

    A link's rate is what one GPU can send, one way, by the data sheet. Real transfers reach less. Raises
    ValueError for a number that is not above 0.
    """

    name: str
    memory: int  # bytes
    peak_bf16: float  # FLOP/s of dense products
    peak_fp32: float  # FLOP/s without tensor cores
    node_size: int  # GPUs that share the fast links
    inside: float  # bytes/s to a GPU of the same node
    between: float  # bytes/s to a GPU of another node

    def __post_init__(self) -> None:
        count(memory=self.memory, node_size=self.node_size)
        amount(peak_bf16=self.peak_bf16, peak_fp32=self.peak_fp32, inside=self.inside, between=self.between)

    def peak(self, precision: Precision) -> float:
        """FLOP/s at this precision."""
        return self.peak_bf16 if precision == "bf16" else self.peak_fp32


# NVIDIA's A100 data sheet: 80 GB, 312 TFLOP/s bf16, 19.5 fp32, NVLink 600 GB/s both ways together. Eight
# adapters of 200 Gbit/s per node of eight GPUs, as in the cluster of Narayanan et al. 2021, 5.
A100 = Hardware("A100 SXM 80 GB", 80 * 10**9, 312e12, 19.5e12, 8, 300e9, 25e9)
# NVIDIA's H100 SXM data sheet: 80 GB, 989 TFLOP/s dense bf16, 67 fp32, NVLink 900 GB/s both ways together.
# 400 Gbit/s per GPU between nodes, as in Grattafiori et al. 2024, 3.3.1.
H100 = Hardware("H100 SXM 80 GB", 80 * 10**9, 989e12, 67e12, 8, 450e9, 50e9)
HARDWARE = {"a100": A100, "h100": H100}
