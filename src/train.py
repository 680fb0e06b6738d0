"""Stage `train`: train the winner of the search and save its adapter.

python -m src.train --model clip
"""

from src.cli.options import command, model_option
from src.cli.output import say
from src.core.config import load_params
from src.models.catalog import MODELS
from src.training.launch import main_first


@command(example="python -m src.train --model clip")
@model_option(MODELS)
@main_first()
def main(model: str) -> None:
    """Train with the settings of the best trial, and save the adapter of the best epoch.

    If a training is killed, the same command continues after its last epoch and gives the same result.

    On several GPUs: accelerate launch --config_file configs/ddp.yaml -m src.train --model clip
    """
    params = load_params()
    from src.pipeline.train import train_winner

    output = train_winner(params, model)
    if output:  # only the main process of a distributed training has one
        say(
            f"{model}: best epoch {output.trained.best_epoch} of {output.num_epochs}, "
            f"validation macro-F1 {output.trained.macro_f1:.4f}"
        )


if __name__ == "__main__":
    main()
