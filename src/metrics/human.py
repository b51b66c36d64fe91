"""Whether people can tell samples from real data: the questions that they are asked, and what they answered."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from src.metrics.base import Measure, Picture, Section, Subject, Value
from src.metrics.features.base import BATCH, Kind
from src.metrics.human_answers import KINDS, Answer, read_answers
from src.plots.human import Question, Share, question_page, separate_pictures, shares_right
from src.plots.pictures import sample_grid
from src.statistics.significance import share_interval
from src.utils.errors import UserError
from src.utils.seeding import generator

NOUNS: dict[Kind, str] = {"images": "image", "signals": "signal"}
SHOWN = 16  # samples in a picture


def write_questions(subject: Subject, file: Path, key: str, singles: int = 40, pairs: int = 20) -> None:
    """Write a page that asks people what is real and what is generated.

    Every sample and every real one is shown once at most; which they are is a function of the seed of the subject.

    Args:
        subject: its samples are asked about, beside its test data.
        file: the HTML file.
        key: of the samples; answers to another page have another.
        singles: images or signals that are shown alone, half of them real; fewer where there are not enough.
        pairs: of a real and a generated one.

    Raises:
        UserError: where the data are points.
    """
    if subject.kind not in NOUNS:
        raise UserError("human=true is for images and signals: nobody can tell whether a single point is real")
    alone, pairs = divide(min(len(subject.x), len(subject.test)), singles // 2, pairs)
    draws = generator("human", subject.seed)
    generated = torch.randperm(len(subject.x), generator=draws)[: alone + pairs]
    real = real_ones(subject, generated, draws)
    real_x = subject.test[real]["x"]
    shown_real, shown = (separate_pictures(x, real_x) for x in (real_x, subject.x[generated]))
    questions = [Question([shown_real[i]], int(real[i]), None, "real") for i in range(alone)]
    questions += [Question([shown[i]], None, int(generated[i]), "generated") for i in range(alone)]
    questions = [questions[i] for i in torch.randperm(2 * alone, generator=draws)]
    for i, left in enumerate(torch.rand(pairs, generator=draws) < 0.5, alone):
        both = [shown[i], shown_real[i]] if left else [shown_real[i], shown[i]]
        questions.append(Question(both, int(real[i]), int(generated[i]), "left" if left else "right"))
    file.write_text(question_page(questions, key, NOUNS[subject.kind]), "utf-8")


def divide(n: int, alone: int, pairs: int) -> tuple[int, int]:
    """How many of n samples are shown alone and in pairs: so many as asked for, or all in the same proportion."""
    asked = alone + pairs
    return (alone, pairs) if asked <= n else (n * alone // asked, n - n * alone // asked)


def real_ones(subject: Subject, generated: Tensor, draws: torch.Generator) -> Tensor:
    """Rows of the test data to show beside the samples, each with the label of its sample where there is such a one.

    Otherwise the class would give away what is generated, as where all samples are threes.
    """
    order = torch.randperm(len(subject.test), generator=draws)
    if subject.label is None:
        return order[: len(generated)]
    wanted, found = subject.label[generated].tolist(), defaultdict(list)
    need = Counter(k for k in wanted if k >= 0)
    for rows in order.split(BATCH):
        for row, k in zip(rows.tolist(), subject.test[rows]["label"].tolist(), strict=True):
            found[k].append(row)
        if all(len(found[k]) >= n for k, n in need.items()):
            break
    chosen = [found[k].pop() if found[k] else None for k in wanted]
    spare = iter([row for row in order.tolist() if row not in chosen])
    return torch.tensor([next(spare) if row is None else row for row in chosen])


class Human(Measure):
    """How often people tell samples from real data; where they cannot, they are right by chance, half the time.

    Args:
        file: the CSV file of their answers, or a folder of them; human=true writes the page that asks.
        key: of the samples.

    Raises:
        UserError: where the answers cannot be read, or do not belong to these samples.

    Source: Zhou et al. 2019, arXiv:1904.01121.
    """

    kinds = ("signals", "images")

    def __init__(self, file: str, key: str):
        self.file = file
        self.answers = read_answers(Path(file), key)

    def __call__(self, subject: Subject) -> Section:
        for name, n in (("real", len(subject.test)), ("generated", len(subject.x))):
            most = max((i for a in self.answers if (i := getattr(a, name)) is not None), default=0)
            if most >= n:
                raise UserError(
                    f"human={self.file}: {name}={most}, but there are {n}; save the CSV from the page again"
                )
        section = Section("Can people tell?")
        people = sorted({a.person for a in self.answers})
        for kind, what in KINDS.items():
            if asked := [a for a in self.answers if a.kind == kind]:
                share = share_right(asked)
                section.values[f"human_{kind}s"] = value(f"right answers, {what}", share, 0.5)
                section.notes.append(f"{what.capitalize()}: {verdict(share)}.")
        self.add_calls(section)
        seconds = median(a.seconds for a in self.answers)
        section.values["human_seconds"] = Value("seconds for an answer, median", seconds)
        section.notes.append(how_to_read(len(self.answers), len(people)))
        self.add_people(section, people)
        self.add_samples(section, subject)
        return section

    def add_calls(self, section: Section) -> None:
        """Add what single ones were called."""
        alone = [a for a in self.answers if a.kind == "single"]
        real, generated = ([a for a in alone if (a.real is None) == made] for made in (False, True))
        if real:
            section.values["human_real_called_real"] = value("real ones called real", share_right(real))
        if generated:
            # Real data are called generated too, by those who say so often: that is what it is to be compared with.
            floor = 1 - section.values["human_real_called_real"].value if real else None
            name = "generated ones called generated"
            section.values["human_generated_called_generated"] = value(name, share_right(generated), floor)

    def add_people(self, section: Section, people: list[str]) -> None:
        """Add how often each person was right."""
        groups = {name: [a for a in self.answers if a.person == name] for name in people}
        if len(people) > 1:
            groups["all"] = self.answers
        shares = {
            what: {
                name: share_right(own) for name, rows in groups.items() if (own := [a for a in rows if a.kind == kind])
            }
            for kind, what in KINDS.items()
        }
        shares = {what: of for what, of in shares.items() if of}
        section.tables["human"] = [
            {
                "person": name,
                **{what: of[name]._asdict() for what, of in shares.items() if name in of},
                "seconds": median(a.seconds for a in groups[name]),
            }
            for name in people
        ]
        section.pictures["people"] = Picture(
            shares_right(shares), "Right answers of each person with their 95 % intervals; dashed: chance."
        )

    def add_samples(self, section: Section, subject: Subject) -> None:
        """Add the samples that were recognised, and those that were taken for real."""
        of: dict[int, list[Answer]] = defaultdict(list)
        for answer in self.answers:
            if answer.generated is not None:
                of[answer.generated].append(answer)
        lead = {i: sum(2 * a.right - 1 for a in answers) for i, answers in of.items()}
        time = {i: median(a.seconds for a in answers) for i, answers in of.items()}
        for name, sign, what in (("recognised", 1, "recognised as generated"), ("mistaken", -1, "taken for real")):
            all_of = [i for i in of if sign * lead[i] > 0]
            # By how many more said so than not; of equal ones those first where they were quicker to say it.
            chosen = sorted(all_of, key=lambda i: (-sign * lead[i], time[i], i))[:SHOWN]
            if chosen:
                share = f"{len(all_of)} of the {len(of)} samples that were asked about were {what}"
                rest = "" if len(chosen) == len(all_of) else f"; the {len(chosen)} clearest"
                grid = sample_grid(subject.x[chosen], 8 if subject.kind == "images" else 4)
                section.pictures[name] = Picture(grid, f"{share}{rest}, by agreement and then by how quickly.")


def share_right(answers: Iterable[Answer]) -> Share:
    right = [a.right for a in answers]
    return Share(sum(right), len(right), *share_interval(sum(right), len(right)))


def value(name: str, share: Share, floor: float | None = None) -> Value:
    return Value(name, share.right / share.n, share.low, share.high, floor, None if floor is None else "lower")


def verdict(share: Share) -> str:
    """What a share of right answers means."""
    found = f"{share.right} of {share.n} right"
    if share.low > 0.5:
        return f"people can tell what is generated: {found}, and the interval lies above chance, 50 %"
    if share.high < 0.5:
        return f"people take what is generated for real: {found}, and the interval lies below chance, 50 %"
    return (
        "as far as these answers show, people cannot tell what is generated, which is the goal: "
        f"{found}, and the interval contains chance, 50 %; it reaches up to {100 * share.high:.0f} %"
    )


def how_to_read(answers: int, people: int) -> str:
    who = "1 person" if people == 1 else f"{people} people"
    text = f"{answers} answers by {who}, who were not told whether they were right."
    if people == 1:
        return text + " The intervals are those of this person: others may see more, or less."
    return (
        text
        + " The intervals take all answers as independent; where people differ, as the plot shows, they are too narrow."
    )
