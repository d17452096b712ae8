"""Writes docs/reference/recipes.md: `python -m mammopipe.pipelines.costs.page > docs/reference/recipes.md`."""

from mammopipe.pipelines.config.pipeline import PipelineConfig
from mammopipe.pipelines.config.recipes import Recipe, recipes
from mammopipe.pipelines.costs import estimate, obstacles
from mammopipe.pipelines.costs.prices import Prices, Throughput


def page() -> str:
    """Return the page: what each recipe is, where it runs, and what it is estimated to cost."""
    prices, throughput = Prices.load(), Throughput.load()
    lines = [
        "# Recipes and what they cost",
        "",
        "This page is generated from the recipes (`make docs`); `mammopipe cost --recipe NAME` prints the same",
        f"figures. They are estimates: work as measured on {throughput.dated}",
        f"(`pipelines/costs/throughput.toml`), the speed of a GPU as assumed there, prices of {prices.dated} in",
        f"{prices.region} (`pipelines/costs/prices.toml`). Nothing was run on AWS.",
        "",
        "Units are images, in the rows of training the images of all epochs (and folds) together. A core-second is a",
        "second of one core. Hours include the start of each job.",
        "",
    ]
    for recipe in recipes():
        lines += _section(recipe, prices, throughput)
    return "\n".join(lines)


def _section(recipe: Recipe, prices: Prices, throughput: Throughput) -> list[str]:
    config = PipelineConfig.load(recipe=recipe.name)
    compute, size = config.compute, estimate.Size.of(config, throughput)
    steps = estimate.estimate(config, prices, throughput)
    hours = estimate.within(steps, training_jobs=compute.training_jobs)
    rows = [
        f"| {line.step} | {line.units:,.0f} | {line.core_seconds:.3g} | {line.instances} x {line.instance_type} | "
        f"{line.hours:.2f} | {line.usd:.2f} |"
        for line in steps
    ]
    warnings = obstacles.obstacles(config, steps, size, throughput)
    return [
        f"## {recipe.name}",
        "",
        f"{recipe.about[:1].upper()}{recipe.about[1:]}. Needs {recipe.needs or 'nothing beside the images'}.",
        "",
        f"- Networks: {', '.join(config.cnns)}; input {config.segmentation.height} x {config.segmentation.width}.",
        f"- Processing: {compute.processing_instance_count} x {compute.processing_instance_type}, "
        f"{compute.processing_volume_gb} GB, at most {compute.processing_max_runtime_seconds / 3600:g} hours a job.",
        f"- Training: {compute.training_instance_count} x {compute.training_instance_type}, "
        f"{compute.training_volume_gb} GB, at most {compute.training_max_runtime_seconds / 3600:g} hours a job.",
        *(
            f"- Downloaded before the job starts, not counted below: {what}, {_hours(each)} (assumed speed)."
            for what, each in obstacles.downloads(config, size, throughput)
        ),
        *(
            f"- Read from S3 during the job (FastFile): {what}, {_hours(each)} (assumed speed)."
            for what, each in obstacles.reads(config, size, throughput)
        ),
        *(f"- Warning: {warning}." for warning in warnings),
        "",
        "| step | units | core-seconds each | instances | hours | USD |",
        "|---|---|---|---|---|---|",
        *rows,
        f"| all | | | | {hours:.2f} from start to end | {sum(line.usd for line in steps):.2f} |",
        "",
    ]


def _hours(value: float) -> str:
    return f"{value:.1f} hours" if value >= 0.05 else "under 0.1 hours"


if __name__ == "__main__":
    print(page(), end="")
