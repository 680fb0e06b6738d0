"""Peak bfloat16 FLOP/s of GPUs without sparsity, by the name that the driver reports.

Source: NVIDIA's data sheets of the A100, H100, H200, B200 and L40S. Figures with sparsity are halved.
"""

# The first key that is part of the card's name counts, so variants stand before the SXM card.
_PEAK_FLOPS = {
    "A100": 312e12,
    "H100 NVL": 835e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "H200": 989e12,
    "B200": 2250e12,
    "L40S": 362e12,
}


def peak_flops(card: str) -> float | None:
    """Return a card's peak FLOP/s in bfloat16, or None if the table lacks the card."""
    return next((peak for name, peak in _PEAK_FLOPS.items() if name in card), None)
