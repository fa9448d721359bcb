"""The students of a study as networks of its bank, before they are taught: as they start, or trained on labels alone.

They have the role "student" and the name that results have for them, so that probes of pairs meet their results.
"""

from __future__ import annotations

from capmismatch._utils.files import hash_of
from capmismatch.architectures import count_parameters
from capmismatch.data.records import STUDENT
from capmismatch.distillation.methods import Method
from capmismatch.distillation.runs import Experiment, Run, config_of, own_code
from capmismatch.distillation.student_trainer import Trainer
from capmismatch.sources._weights import hash_network
from capmismatch.sources.families import Teacher

FAMILY = "students"
UNTRAINED, PLAIN = "untrained", "plain"
SEED = 0


def students_to_teach(study: Experiment, how: str) -> list[Teacher]:
    """The architectures of ``[distill]`` as networks to collect, each of the study's first seed.

    Parameters
    ----------
    study : Experiment
        Whose students they are.
    how : str
        "untrained" takes them as training begins; "plain" trains them on the labels of the training rows, as the method
        CE does, when they are first run.

    Returns
    -------
    list of Teacher
        With the role "student".
    """
    trainer = Trainer(study)
    return [_student(trainer, name, how) for name in dict.fromkeys(study.distillation.students)]


def _student(trainer: Trainer, name: str, how: str) -> Teacher:
    start = trainer.build(name, SEED)
    run = Run(name, Method("CE"), SEED, None)
    code = own_code([name])
    return Teacher(
        family=FAMILY,
        name=name,
        params=count_parameters(start),
        source=f"{how} student",
        weights_hash=hash_network(start) if how == UNTRAINED else hash_of(config_of(trainer.study, run)),
        preprocessing=repr(trainer.prepare) if not trainer.is_text else "token ids",
        module=(lambda: trainer.build(name, SEED).eval()) if how == UNTRAINED else (lambda: trainer.plain(name, SEED)),
        prepare=trainer.prepare,
        built_by=hash_of(code) if code else "",
        role=STUDENT,
    )
