"""Human evaluation: can people distinguish samples from real data?"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from src.metrics.base import EvalContext, Metric, MetricValue, Picture, ReportSection
from src.metrics.features.base import BATCH_SIZE
from src.metrics.human_answers import KINDS, Answer, read_answers
from src.plots.human import Proportion, Question, accuracy_by_person, question_page, separate_pictures
from src.plots.pictures import sample_grid
from src.statistics.significance import Better, wilson_interval
from src.utils.errors import UserError
from src.utils.seeding import generator
from src.utils.units import Kind

NOUNS: dict[Kind, str] = {"images": "image", "signals": "signal"}
MAX_SHOWN = 16  # samples in a picture


def write_questions(context: EvalContext, file: Path, key: str, singles: int = 40, pairs: int = 20) -> None:
    """Write a page that asks people what is real and what is generated.

    Every sample and every test datum is shown at most once; the choice is a function of the seed of the context.

    Args:
        context: its samples and its test data are shown.
        file: the HTML file.
        key: identifies the samples; the answers contain it.
        singles: images or signals that are shown alone, half of them real; fewer if there are not enough.
        pairs: pairs of a real and a generated one.

    Raises:
        UserError: if the data are points.
    """
    if context.kind not in NOUNS:
        raise UserError("human=true is for images and signals: people cannot judge single points")
    alone, pairs = limit_questions(min(len(context.x), len(context.test)), singles // 2, pairs)
    draws = generator("human", context.seed)
    generated = torch.randperm(len(context.x), generator=draws)[: alone + pairs]
    real = matching_test_data(context, generated, draws)
    real_x = context.test[real]["x"]
    shown_real, shown = (separate_pictures(x, real_x) for x in (real_x, context.x[generated]))
    questions = [Question([shown_real[i]], int(real[i]), None, "real") for i in range(alone)]
    questions += [Question([shown[i]], None, int(generated[i]), "generated") for i in range(alone)]
    questions = [questions[i] for i in torch.randperm(2 * alone, generator=draws)]
    for i, left in enumerate(torch.rand(pairs, generator=draws) < 0.5, alone):
        both = [shown[i], shown_real[i]] if left else [shown_real[i], shown[i]]
        questions.append(Question(both, int(real[i]), int(generated[i]), "left" if left else "right"))
    file.write_text(question_page(questions, key, NOUNS[context.kind]), "utf-8")


def limit_questions(n: int, alone: int, pairs: int) -> tuple[int, int]:
    """Reduce the numbers of single questions and of pairs in proportion, to at most n samples in total."""
    total = alone + pairs
    return (alone, pairs) if total <= n else (n * alone // total, n - n * alone // total)


def matching_test_data(context: EvalContext, generated: Tensor, draws: torch.Generator) -> Tensor:
    """Indices of test data to show beside the samples, each with the label of its sample where possible.

    Otherwise the class would reveal what is generated, for example if all samples are threes.
    """
    order = torch.randperm(len(context.test), generator=draws)
    if context.label is None:
        return order[: len(generated)]
    wanted, found = context.label[generated].tolist(), defaultdict(list)
    need = Counter(k for k in wanted if k >= 0)
    for rows in order.split(BATCH_SIZE):
        for row, k in zip(rows.tolist(), context.test[rows]["label"].tolist(), strict=True):
            found[k].append(row)
        if all(len(found[k]) >= n for k, n in need.items()):
            break
    chosen = [found[k].pop() if found[k] else None for k in wanted]
    spare = iter([row for row in order.tolist() if row not in chosen])
    return torch.tensor([next(spare) if row is None else row for row in chosen])


class HumanEvaluation(Metric):
    """The fraction of right answers of people who distinguish samples from real data; 50 % is chance.

    Args:
        file: the CSV file of their answers, or a folder of such files; human=true writes the page with the questions.
        key: key of the samples.

    Raises:
        UserError: if the answers cannot be read, or belong to other samples.

    Source: Zhou et al. 2019, arXiv:1904.01121.
    """

    kinds = ("signals", "images")

    def __init__(self, file: str, key: str):
        self.file = file
        self.answers = read_answers(Path(file), key)

    def __call__(self, context: EvalContext) -> ReportSection:
        for name, n in (("real", len(context.test)), ("generated", len(context.x))):
            most = max((i for a in self.answers if (i := getattr(a, name)) is not None), default=0)
            if most >= n:
                raise UserError(
                    f"human={self.file}: {name} must be < {n}, got {most}; save the CSV from the page again"
                )
        section = ReportSection("Human evaluation")
        people = sorted({a.person for a in self.answers})
        for kind, what in KINDS.items():
            if asked := [a for a in self.answers if a.kind == kind]:
                proportion = fraction_right(asked)
                section.values[f"human_{kind}s"] = fraction_value(f"right answers, {what}", proportion, 0.5)
                section.notes.append(f"{what.capitalize()}: {interpret_answers(proportion)}.")
        self.add_calls(section)
        seconds = median(a.seconds for a in self.answers)
        section.values["human_seconds"] = MetricValue("seconds for an answer, median", seconds)
        section.notes.append(answer_notes(len(self.answers), len(people)))
        self.add_people(section, people)
        self.add_samples(section, context)
        return section

    def add_calls(self, section: ReportSection) -> None:
        """Add the answers to single questions, separately for real and generated ones."""
        alone = [a for a in self.answers if a.kind == "single"]
        real, generated = ([a for a in alone if (a.real is None) == made] for made in (False, True))
        if real:
            section.values["human_real_called_real"] = fraction_value("real ones called real", fraction_right(real))
        if generated:
            # The baseline is the fraction of real ones called generated, which people who answer so often raise too.
            baseline = 1 - section.values["human_real_called_real"].value if real else None
            name = "generated ones called generated"
            section.values["human_generated_called_generated"] = fraction_value(
                name, fraction_right(generated), baseline
            )

    def add_people(self, section: ReportSection, people: list[str]) -> None:
        """Add the fraction of right answers of each person."""
        groups = {name: [a for a in self.answers if a.person == name] for name in people}
        if len(people) > 1:
            groups["all"] = self.answers
        fractions = {
            what: {
                name: fraction_right(own)
                for name, rows in groups.items()
                if (own := [a for a in rows if a.kind == kind])
            }
            for kind, what in KINDS.items()
        }
        fractions = {what: of for what, of in fractions.items() if of}
        section.tables["human"] = [
            {
                "person": name,
                **{what: of[name]._asdict() for what, of in fractions.items() if name in of},
                "seconds": median(a.seconds for a in groups[name]),
            }
            for name in people
        ]
        section.pictures["people"] = Picture(
            accuracy_by_person(fractions), "Right answers of each person with 95 % intervals; dashed: chance."
        )

    def add_samples(self, section: ReportSection, context: EvalContext) -> None:
        """Add the samples that were recognized as generated, and those that were taken for real."""
        of: dict[int, list[Answer]] = defaultdict(list)
        for answer in self.answers:
            if answer.generated is not None:
                of[answer.generated].append(answer)
        lead = {i: sum(2 * a.right - 1 for a in answers) for i, answers in of.items()}
        time = {i: median(a.seconds for a in answers) for i, answers in of.items()}
        for name, sign, what in (("recognized", 1, "recognized as generated"), ("mistaken", -1, "taken for real")):
            all_of = [i for i in of if sign * lead[i] > 0]
            # By majority, then by the time of the answers.
            chosen = sorted(all_of, key=lambda i: (-sign * lead[i], time[i], i))[:MAX_SHOWN]
            if chosen:
                counts = f"{len(all_of)} of the {len(of)} samples in the questions were {what}"
                rest = "" if len(chosen) == len(all_of) else f"; the {len(chosen)} clearest"
                grid = sample_grid(context.x[chosen], 8 if context.kind == "images" else 4)
                section.pictures[name] = Picture(grid, f"{counts}{rest}, by agreement, then by speed.")


def fraction_right(answers: Iterable[Answer]) -> Proportion:
    right = [a.right for a in answers]
    return Proportion(sum(right), len(right), *wilson_interval(sum(right), len(right)))


def fraction_value(name: str, proportion: Proportion, real_baseline: float | None = None) -> MetricValue:
    better: Better | None = None if real_baseline is None else "lower"
    return MetricValue(name, proportion.right / proportion.n, proportion.low, proportion.high, real_baseline, better)


def interpret_answers(proportion: Proportion) -> str:
    """Interpret a fraction of right answers."""
    found = f"{proportion.right} of {proportion.n} right"
    if proportion.low > 0.5:
        return f"people recognize what is generated: {found}, and the interval is above chance, 50 %"
    if proportion.high < 0.5:
        return f"people take what is generated for real: {found}, and the interval is below chance, 50 %"
    return (
        "these answers do not show that people recognize what is generated, which is the goal: "
        f"{found}, and the interval contains chance, 50 %; its upper end is {100 * proportion.high:.0f} %"
    )


def answer_notes(answers: int, people: int) -> str:
    """Explain the intervals."""
    who = "1 person" if people == 1 else f"{people} people"
    text = f"{answers} answers by {who}, without feedback."
    if people == 1:
        return text + " The intervals are valid for this person; others may be better or worse."
    return (
        text + " The intervals assume independent answers; if people differ, which the plot shows, they are too narrow."
    )
