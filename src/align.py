"""Stage `align`: train the segments that a model's checkpoint has no trained weights for.

python -m src.align --model smol
"""

from src.cli.options import command, model_option
from src.cli.output import say
from src.core.config import load_params
from src.core.outputs import AlignOutput
from src.core.paths import ALIGN_JSON, stage_folder
from src.modeling.hub import go_offline_if_hub_unreachable
from src.models.catalog import MODELS, needs_hub


@command(example="python -m src.align --model smol")
@model_option(MODELS)
def main(model: str) -> None:
    """Train the segments that align.MODEL in params.yaml names, such as a connector, with all others frozen.

    Nothing is trained if the section is empty: the published checkpoints of clip, blip2, llava and tinyllava are whole.
    If a training is killed, the same command continues after its last epoch.
    """
    params = load_params()
    settings = params.align_config(model)
    if settings is None:
        AlignOutput().write(stage_folder("align", model) / ALIGN_JSON)
        say(f"{model}: nothing to align (align.{model} in params.yaml is empty)")
        return
    if needs_hub(params, model):
        # The import below loads the Hub's library, which reads its environment only once.
        go_offline_if_hub_unreachable()
    # The import loads torch, which a model with nothing to align does not need.
    from src.pipeline.align import align_model

    output = align_model(params, model, settings)
    say(
        f"{model}: {' and '.join(output.segments)} aligned, best epoch {output.best_epoch}, "
        f"validation macro-F1 {output.validation['macro_f1']:.4f}"
    )


if __name__ == "__main__":
    main()
