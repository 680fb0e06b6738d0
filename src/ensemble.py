"""Stage `ensemble`: choose a weighted set of all systems on validation, and score its mean on the test part.

python -m src.ensemble
"""

from src.cli.options import command
from src.cli.output import say
from src.core.config import load_params


@command(example="python -m src.ensemble")
def main() -> None:
    """Choose members and weights on validation alone, and write outputs/ensemble/.

    Members are chosen from baselines, zero-shot models, probes, tuned models, their trainings on other seeds and the
    next best trials of their searches. The test part is scored and chooses nothing.
    """
    params = load_params()
    from src.pipeline.ensemble import run_ensemble

    result = run_ensemble(params)
    members = ", ".join(f"{member.system} {member.weight:.2f}" for member in result.output.members)
    say(f"{result.evaluation.summary()}; of {result.output.candidates} systems: {members}")


if __name__ == "__main__":
    main()
