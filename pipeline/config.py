"""RunConfig: every setting that decides the result of one run. How it is launched is not here."""

from typing import Any

from pydantic import Field, model_validator

from pipeline.core.settings import Settings, members, tag, tag_field
from pipeline.methods.attribution import (
    Attribution,
    Contrast,
    DeepLift,
    GivenClass,
    IntegratedGradients,
    Loss,
    Predicted,
    Ranked,
    Target,
    TrueLabel,
)
from pipeline.methods.augmentation import Augmentation, ClassBalanced, Misclassified, NoAugmentation, SameCompute, Selection, Worst
from pipeline.methods.augmentation.change import MADE_OF
from pipeline.methods.datasets import Additive, Dataset, MnistSmall, News20, PtbXl, Shortcut
from pipeline.methods.datasets.splits import ImageSettings
from pipeline.methods.legacy import Legacy
from pipeline.methods.metrics import PREDICTION, Agreement, Evaluation, ExactCounterpart, KnownTruth, TopK
from pipeline.methods.models import ImageModel, ImagenetModel, Model, Oracle, SmallCnn, TextModel
from pipeline.methods.tasks import TokenMaps
from pipeline.methods.training.settings import Retraining, Schedule, Training, num_rounds


class RunConfig(Settings):
    """One run: one row of the results table. Each field is a parameter name of the stages that use it."""

    seed: int = Field(default=0, ge=0, le=2**31 - 1)
    """Seed of initial weights, sample order and every random choice after `prepare`; the unit of replication."""
    data: Dataset = Field(default_factory=MnistSmall)
    """Data set, with its folds."""
    model: Model = Field(default_factory=SmallCnn)
    """Network."""
    pretraining: Training = Field(default_factory=Training)
    """How the model is trained before it is explained."""
    attribution: Attribution = Field(default_factory=IntegratedGradients)
    """What explains the model."""
    target: Target = Field(default_factory=TrueLabel)
    """Which output of the model is explained."""
    selection: Selection = Field(default_factory=Worst)
    """Which training samples are explained and changed."""
    token_maps: TokenMaps = "sum"
    """What attribute keeps of text: a number a word, the sum over its vector, or each value of the vectors. Other samples have no words."""
    augmentation: Augmentation = Field(default_factory=NoAugmentation)
    """What is done to them."""
    rounds: int = Field(default=1, ge=1, le=100)
    """How often attribute, augment and retrain follow each other; without meaning where `augmentation` is none."""
    retraining: Retraining = Field(default_factory=Retraining)
    """How the model is trained on what augmentation made."""
    schedule: Schedule | None = Field(default=None, strict=False)
    """Epochs and rounds in their order, such as [5, p, 9, p, 4]: 5 epochs, a round, 9 epochs, a round, 4 epochs, under one schedule of the
    learning rate. Where given, it decides in place of `rounds` and the epochs of pretraining and retraining; [40] has no round."""
    evaluation: Evaluation = Field(default_factory=Evaluation)
    """What is measured at the end."""
    legacy: Legacy | None = None
    """Defects of published procedures to repeat, for tables that are audits; None repeats none."""

    @property
    def _own_data(self) -> tuple[str, Dataset]:
        """The data set without what is planted into it, and the field that it is in."""
        return ("data.base", self.data.base) if isinstance(self.data, Shortcut) else ("data", self.data)

    @property
    def legacies(self) -> tuple[str, ...]:
        """The defects of published procedures that the run repeats."""
        found = list(self.legacy.names) if self.legacy else []
        named = (
            ("pretraining.guide", self.pretraining.guide),
            ("retraining.guide", self.retraining.guide),
            ("attribution", self.attribution),
        )
        for where, settings in named:
            found += [f"{where}.{name}" for name, value in settings or () if name.startswith("legacy_") and value]
        return tuple(found)

    @model_validator(mode="before")
    @classmethod
    def _take_rounds(cls, given: Any) -> Any:
        """Take the number of rounds from the schedule, where that is given."""
        if not isinstance(given, dict) or not isinstance(given.get("schedule"), list | tuple):
            return given
        return given | {"rounds": max(1, sum(item == "p" for item in given["schedule"]))}

    @model_validator(mode="after")
    def _check_schedule(self) -> "RunConfig":
        if self.schedule is None:
            return self
        needs_rounds = not isinstance(self.augmentation, NoAugmentation)
        if (num_rounds(self.schedule) > 0) != needs_rounds:
            raise ValueError(
                f"schedule {list(self.schedule)} has {num_rounds(self.schedule)} rounds, and augmentation {self.augmentation.rule} "
                f"{'needs one or more' if needs_rounds else 'has none'}; write a p for each round, or no p"
            )
        for name, training in (("pretraining", self.pretraining), ("retraining", self.retraining)):
            if training.early_stop_epochs is not None or (name == "retraining" and self.retraining.start == "scratch"):
                raise ValueError(f"{name}: a schedule goes on from round to round; leave early_stop_epochs out, and start pretrained")
        return self

    @model_validator(mode="after")
    def _check_legacy(self) -> "RunConfig":
        if self.legacy is not None and self.legacy.resplit and self.data.folds == 1:
            raise ValueError("legacy.resplit draws training and validation samples anew, but data.folds is 1; set data.folds to 2 or more")
        return self

    @model_validator(mode="after")
    def _check_validation(self) -> "RunConfig":
        if self.data.folds == 1 and (self.pretraining.early_stop_epochs or self.retraining.early_stop_epochs):
            raise ValueError(
                "early_stop_epochs needs validation data, but data.folds is 1; set data.folds to 2 or more, or leave early_stop_epochs out"
            )
        return self

    @model_validator(mode="after")
    def _check_weights(self) -> "RunConfig":
        """Refuse a network that nothing trains, and weights that would see images of another scale than they were trained on."""
        weights = self.model.weights if isinstance(self.model, ImageModel | ImagenetModel) else None
        if self.pretraining.epochs == 0 and weights is None:
            raise ValueError("pretraining.epochs 0 takes given weights as they are; set model.weights, or epochs to 1 or more")
        if self.retraining.epochs == 0:
            raise ValueError("retraining.epochs must be 1 or more, got 0; set augmentation.rule to none to go on without retraining")
        field, own = self._own_data
        if weights == "torchvision" and isinstance(own, ImageSettings) and own.scale is None:
            raise ValueError(
                f"model.weights torchvision were trained on images normalised as ImageNet's; set {field}.normalise to imagenet, or to a "
                "mean and std of your own"
            )
        return self

    @model_validator(mode="after")
    def _check_layout(self) -> "RunConfig":
        if self.data.kind != "image" and (self.pretraining.channels_last or self.retraining.channels_last):
            raise ValueError(f"channels_last is for images, and data set {self.data.dataset} has {self.data.kind}; leave it out")
        return self

    @model_validator(mode="after")
    def _check_same_compute(self) -> "RunConfig":
        """Refuse a control that would not take the steps of the arm that it is held against."""
        if not isinstance(self.augmentation, SameCompute):
            return self
        if self.retraining.early_stop_epochs is not None:
            raise ValueError(
                "same_compute takes as many steps as the arm it is held against, which retraining.early_stop_epochs "
                f"({self.retraining.early_stop_epochs}) ends at another step; leave early_stop_epochs out of retraining"
            )
        if self.rounds > 1 and self.augmentation.mode == "append" and self.selection.depends_on_model:
            raise ValueError(
                f"same_compute appends as many samples as its own model selects, with rule {self.selection.rule} from round 2 on (rounds: "
                f"{self.rounds}) not as many as that of the arm it is held against; set augmentation.mode to replace, selection to all or "
                "fraction, or rounds to 1"
            )
        return self

    @model_validator(mode="after")
    def _check_kind(self) -> "RunConfig":
        """Refuse what is made for other samples or another task than the data set's."""
        name, kind, task = self.data.dataset, self.data.kind, self.data.task
        if kind not in self.model.kinds:
            raise ValueError(
                f"model {self.model.model} takes {' or '.join(self.model.kinds)}, data set {name} has {kind}; take another one"
            )
        field, own = self._own_data
        if isinstance(self.model, TextModel) and isinstance(own, News20) and not (self.model.width or own.vectors):
            raise ValueError(f"model {self.model.model} needs the size of its words' vectors; set model.width, or {field}.vectors")
        if kind not in self.augmentation.kinds:
            values = [value for value, kinds in MADE_OF.items() if kind in kinds]
            remedy = (
                f"set its value to {' or '.join(values)}, channels to together"
                if values
                else "set its rule to none, same_compute or repeat"
            )
            raise ValueError(
                f"augmentation {self.augmentation.rule} as it is set changes {' or '.join(self.augmentation.kinds)}, and data set "
                f"{name} has {kind}; {remedy}"
            )
        if misfits := self.evaluation.misfits(task):
            raise ValueError(
                f"evaluation.metrics {', '.join(misfits)}: not made for the {task} that data set {name} asks for; of predictions there are "
                f"{', '.join(members(PREDICTION[task]))}"
            )
        return self

    @model_validator(mode="after")
    def _check_changes(self) -> "RunConfig":
        """Refuse what training cannot do to such samples."""
        for name, training in (("pretraining", self.pretraining), ("retraining", self.retraining)):
            for change in (*training.transforms, *filter(None, [training.mixing, training.guide, training.penalty])):
                if self.data.kind not in change.kinds:
                    raise ValueError(
                        f"{name}: {tag(change)} as it is set changes {' or '.join(change.kinds)}, and data set {self.data.dataset} has "
                        f"{self.data.kind}; leave it out, or set it otherwise"
                    )
            for rule in filter(None, [training.guide, training.penalty]):
                if self.data.task not in rule.tasks:
                    raise ValueError(
                        f"{name}: {tag_field(type(rule))} {tag(rule)} as it is set is for {' or '.join(rule.tasks)}, and data set "
                        f"{self.data.dataset} asks for {self.data.task}; for labels take target loss, for values guide noise"
                    )
            if training.penalty is not None and training.penalty.needs_mask and not self.data.has_masks:
                raise ValueError(
                    f"{name}: penalty {training.penalty.penalty} needs masks that say where the evidence lies, and data set "
                    f"{self.data.dataset} has none; leave it out, or take a data set with masks, such as shortcut"
                )
        return self

    @model_validator(mode="after")
    def _check_task(self) -> "RunConfig":
        """Refuse what only classes have."""
        task = self.data.task
        if task == "classes":
            return self
        targets = (TrueLabel, GivenClass) if task == "values" else (GivenClass, Predicted, Ranked, Loss)
        named = (self.target.of, self.target.against) if isinstance(self.target, Contrast) and task == "labels" else (self.target,)
        of_classes = {
            f"target {self.target.target}": not all(isinstance(target, targets) for target in named),
            f"selection {self.selection.rule}": isinstance(self.selection, Misclassified | ClassBalanced),
            "label_smoothing": bool(self.pretraining.label_smoothing or self.retraining.label_smoothing),
            "class_weights": "balanced" in (self.pretraining.class_weights, self.retraining.class_weights),
        }
        if misfits := [name for name, is_wrong in of_classes.items() if is_wrong]:
            raise ValueError(
                f"{', '.join(misfits)}: made for classes, and data set {self.data.dataset} asks for {task}; take target "
                f"{' or '.join(str(tag(target)) for target in targets)}, selection all, worst or fraction, and label_smoothing 0"
            )
        return self

    @model_validator(mode="after")
    def _check_references(self) -> "RunConfig":
        """Refuse a truth, or a model that is one, of other data than these; and maps of sizes held against maps with signs."""
        agreement = [metric for metric in self.evaluation.quality if isinstance(metric, Agreement)]
        effect = self.data.effect if isinstance(self.data, Additive) else None
        for known in (self.model, *(metric.reference for metric in agreement)):
            if isinstance(known, Oracle | KnownTruth) and known.effect != effect:
                who = "model oracle" if isinstance(known, Oracle) else "reference truth"
                raise ValueError(
                    f"{who} knows data set additive with effect {known.effect}, got {self.data.dataset} with effect {effect}; "
                    "give both the same effect"
                )
        for metric in agreement:
            if isinstance(metric.reference, ExactCounterpart):
                metric.reference.of(self.attribution)
            elif metric.of == "signed" and not metric.mixed_signs and metric.reference.is_signed != self.attribution.is_signed:
                without = self.attribution if metric.reference.is_signed else metric.reference
                raise ValueError(
                    f"metric {metric.column} holds a map with signs against that of {without.method}, which has none; set its field of to "
                    "absolute, or mixed_signs to true to have it all the same"
                )
        return self

    @model_validator(mode="after")
    def _check_replaced(self) -> "RunConfig":
        """Refuse to measure on what is not made, and to make of held-out samples what nobody measures on."""
        making = None if isinstance(self.augmentation, NoAugmentation | SameCompute) else self.augmentation
        in_place = making is not None and making.mode == "replace" and self.rounds == 1
        if self.evaluation.replaced and not (in_place and self.selection.held_out_too):
            raise ValueError(
                "evaluation.replaced measures on made samples; set selection to {rule: all, held_out_too: true}, augmentation to a rule "
                "that replaces, with mode replace, and rounds to 1"
            )
        if self.evaluation.replaced and self.target.uses_label:
            raise ValueError(
                f"target {self.target.target} would change held-out samples by their labels, and so tell them; "
                "set target to predicted, rank or class"
            )
        if self.selection.held_out_too and making is not None and making.graft:
            raise ValueError("augmentation.graft would put parts of held-out samples into those trained on; set it to false")
        if self.selection.held_out_too and making is not None and not self.evaluation.replaced:
            raise ValueError(
                "selection.held_out_too makes samples that nothing is measured on; set evaluation.replaced to true, or leave it out"
            )
        return self

    @model_validator(mode="after")
    def _check_masks(self) -> "RunConfig":
        for metric in self.evaluation.quality:
            if metric.needs_mask and not self.data.has_masks:
                raise ValueError(
                    f"metric {metric.column} needs masks that say where the evidence lies, and data set {self.data.dataset} has none; "
                    "leave it out of evaluation.metrics, or take a data set with masks, such as shortcut"
                )
        return self

    @model_validator(mode="after")
    def _check_target(self) -> "RunConfig":
        if isinstance(self.attribution, DeepLift) and isinstance(self.target, Loss):
            raise ValueError(
                "attribution deep_lift explains logits and has no rule for the softmax of target loss; set target to label or predicted, "
                "or attribution to integrated_gradients"
            )
        return self

    @model_validator(mode="after")
    def _check_images(self) -> "RunConfig":
        """Refuse metrics that look at a pixel's neighbours, before a network is trained in vain."""
        for metric in self.evaluation.quality:
            if metric.needs_images and self.data.kind != "image":
                raise ValueError(
                    f"metric {metric.column} needs images, and data set {self.data.dataset} has {self.data.kind}; take infidelity with "
                    "disturbance gaussian, removal_curve with fill mean (for classes), sensitivity_max or sparseness"
                )
        return self

    @model_validator(mode="after")
    def _check_crops(self) -> "RunConfig":
        """Refuse methods that look at layers, through which the windows of a signal pass side by side."""
        field, own = self._own_data
        if isinstance(own, PtbXl) and own.crop_s is not None and "layer" in type(self.attribution).model_fields:
            raise ValueError(
                f"attribution {self.attribution.method} looks at a layer, which sees windows of a record, not the record; set "
                f"{field}.crop_s to null, or attribution to a method without a layer, such as integrated_gradients"
            )
        return self

    @model_validator(mode="after")
    def _check_top_k(self) -> "RunConfig":
        for metric in self.evaluation.metrics:
            if isinstance(metric, TopK) and metric.k > self.data.num_outputs:
                raise ValueError(
                    f"metric top_k: k ({metric.k}) must be at most the number of classes ({self.data.num_outputs}); "
                    "set it lower, or leave top_k out of evaluation.metrics"
                )
        return self
