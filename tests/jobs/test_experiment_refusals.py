"""What an experiment file must not hold, and with which words it is refused."""

import pytest

from jobs.experiment import load_experiment
from jobs.reading import MAX_BYTES
from pipeline.core.settings import SettingsError

REFUSED = {
    "an unknown field at the top": ("experiment: e\nbse: {}", r"e\.yaml: unknown field 'bse' \(nearest: base; valid: .*sweep"),
    "an unknown field of a run": ("experiment: e\nbase: {pretaining: {}}", r"unknown field 'pretaining' \(nearest: pretraining;"),
    "an unknown field of a part": (
        "experiment: e\nbase: {pretraining: {epoch: 3}}",
        r"e\.yaml: base\.pretraining: unknown field 'epoch' \(nearest: epochs;",
    ),
    "an unknown field of the resources": ("experiment: e\nresources: {retrain: {gpus: 1}}", r"retrain: unknown field 'gpus' \(.*valid:"),
    "an unknown stage in the resources": ("experiment: e\nresources: {retrian: {}}", r"unknown stage 'retrian' \(nearest: retrain; valid:"),
    "an unknown field of the cluster": ("experiment: e\ncluster: {partitoin: x}", r"unknown field 'partitoin' \(nearest: partition;"),
    "a wrong type": ("experiment: e\nbase: {pretraining: {epochs: '3'}}", r"pretraining\.epochs: .*valid integer, got '3'"),
    "a truth value for a number": ("experiment: e\nbase: {seed: true}", r"seed: .*valid integer, got True"),
    "a number for a mapping": ("experiment: e\nbase: {pretraining: 3}", r"pretraining: .*got 3"),
    "nothing for a mapping": (
        "experiment: e\nbase:",
        r"e\.yaml: base: nothing is written under it; write what it is to hold, or leave it out",
    ),
    "a date for a number": ("experiment: e\nbase: {seed: 2020-01-01}", r"seed: .*valid integer, got datetime\.date"),
    "an impossible date": ("experiment: e\nbase: {seed: 2020-13-45}", r"e\.yaml is not YAML: month must be in 1\.\.12"),
    "a value out of range": ("experiment: e\nbase: {pretraining: {epochs: -1}}", r"epochs: .*greater than or equal to 0, got -1"),
    "a number that is none": ("experiment: e\nbase: {pretraining: {learning_rate: .nan}}", r"learning_rate: .*finite number"),
    "a word that is not among the choices": (
        "experiment: e\nbase: {pretraining: {optimizer: adam}}",
        r"optimizer: .*'sgd' or 'adamw', got 'adam'",
    ),
    "an unknown method": (
        "experiment: e\nbase: {attribution: {method: integrated_gradient}}",
        r"attribution: unknown method 'integrated_gradient' \(nearest: integrated_gradients; valid: .*gradient.*saliency",
    ),
    "an unknown data set": (
        "experiment: e\nbase: {data: {dataset: minst}}",
        r"unknown dataset 'minst' \(nearest: mnist; valid: additive, cifar10, ",
    ),
    "an unknown rule": (
        "experiment: e\nbase: {augmentation: {rule: replace}}",
        r"unknown rule 'replace' \(nearest: .*valid: .*replace_top",
    ),
    "a field that the chosen rule lacks": ("experiment: e\nbase: {augmentation: {rule: none, fraction: 0.1}}", r"unknown field 'fraction'"),
    "settings that do not go together": (
        "experiment: e\nbase: {data: {dataset: mnist_small, folds: 2, fold: 2}}",
        r"fold \(2\) must be less",
    ),
    "early stopping without validation": (
        "experiment: e\nbase: {data: {dataset: mnist_small, folds: 1}, pretraining: {early_stop_epochs: 1}}",
        "early_stop_epochs needs validation data, but data.folds is 1; set data.folds",
    ),
    "a method that has no rule for the target": (
        "experiment: e\nbase: {attribution: {method: deep_lift}, target: {target: loss}}",
        r"deep_lift explains logits and has no rule for the softmax of target loss; set target to label",
    ),
    "a control whose steps would depend on its own model": (
        "experiment: e\nbase: {augmentation: {rule: same_compute}, rounds: 2}",
        r"same_compute .* with rule worst from round 2 on \(rounds: 2\) .*; set augmentation\.mode to replace, selection to all or",
    ),
    "a control whose steps early stopping decides": (
        "experiment: e\nbase: {augmentation: {rule: same_compute}, retraining: {early_stop_epochs: 2}}",
        r"same_compute .*retraining\.early_stop_epochs \(2\) ends at another step; leave early_stop_epochs out",
    ),
    "more training samples than there are": (
        "experiment: e\nbase: {data: {dataset: mnist_small, num_train: 999999}}",
        r"base\.data: num_train: wanted 999999 samples, but there are 4000; ask for fewer, or for all \(null\)",
    ),
    "more test samples than the test split has": (
        "experiment: e\nbase: {data: {dataset: mnist_small, test_fraction: 0.1, num_test: 501}}",
        r"num_test: wanted 501 samples, but there are 500",
    ),
    "fewer training samples than folds": (
        "experiment: e\nbase: {data: {dataset: mnist, num_train: 3, folds: 5}}",
        r"5 folds need at least as many training samples, got num_train 3; set folds lower",
    ),
    "patches that overlap": (
        "experiment: e\nbase: {data: {dataset: shortcut, cue: {cue: patch, size_px: 30}}}",
        r"base\.data: 10 patches of 30 px overlap along the border of 28 x 28 px images; largest size: 5",
    ),
    "a top_k of more classes than there are": (
        "experiment: e\nbase: {evaluation: {metrics: [{metric: top_k, k: 11}]}}",
        r"metric top_k: k \(11\) must be at most the number of classes \(10\); set it lower, or leave top_k out",
    ),
    "masks that the data do not have": (
        "experiment: e\nbase: {data: {dataset: mnist_small}, evaluation: {metrics: [relevance_mass]}}",
        r"metric relevance_mass needs masks that say where the evidence lies, and data set mnist_small has none; leave it out",
    ),
    "a model of other samples than the data set has": (
        "experiment: e\nbase: {data: {dataset: additive}}",
        r"model small_cnn takes image, data set additive has features; take another one",
    ),
    "a metric of classes where values are asked for": (
        "experiment: e\nbase: {data: {dataset: additive}, model: {model: mlp}, evaluation: {metrics: [r2, accuracy, deletion_auc]}}",
        r"evaluation\.metrics accuracy, deletion_auc: not made for the values that data set additive asks for; .*r2, rmse, mae",
    ),
    "a metric of values where classes are asked for": (
        "experiment: e\nbase: {evaluation: {metrics: [accuracy, r2]}}",
        r"evaluation\.metrics r2: not made for the classes that data set mnist_small asks for; .*accuracy, top_k",
    ),
    "what only classes have": (
        "experiment: e\nbase: {data: {dataset: additive}, model: {model: mlp}, evaluation: {metrics: [r2]}, target: {target: loss},\n"
        "  selection: {rule: misclassified}, pretraining: {label_smoothing: 0.1}}",
        r"target loss, selection misclassified, label_smoothing: made for classes, and data set additive asks for values; take target",
    ),
    "what only classes have, where labels are asked for": (
        "experiment: e\nbase: {data: {dataset: ptbxl}, model: {model: mlp}, evaluation: {metrics: [bce]},\n"
        "  selection: {rule: class_balanced}}",
        r"target label, selection class_balanced: made for classes, .* asks for labels; take target class or predicted or rank or",
    ),
    "a metric of classes where labels are asked for": (
        "experiment: e\nbase: {data: {dataset: ptbxl}, model: {model: mlp}, evaluation: {metrics: [bce, ece, r2, removal_curve]}}",
        r"evaluation\.metrics ece, r2, removal_curve: not made for the labels .*macro_auc, f_max, bce",
    ),
    "a contrast with the one label that a sample does not have": (
        "experiment: e\nbase: {data: {dataset: ptbxl}, model: {model: mlp}, evaluation: {metrics: [bce]}, target: {target: contrast}}",
        r"target contrast: made for classes, .* asks for labels",
    ),
    "a planted word read by a network without a width": (
        "experiment: e\nbase: {data: {dataset: shortcut, base: {dataset: news20}, cue: {cue: token}}, model: {model: text_cnn}}",
        r"text_cnn needs the size of its words' vectors; set model\.width, or data\.base\.vectors",
    ),
    "a layer's map of a record with a planted spike that the layer never sees whole": (
        "experiment: e\nbase: {data: {dataset: shortcut, base: {dataset: ptbxl, crop_s: 2.5}, cue: {cue: spike}},\n"
        "  model: {model: resnet1d_wang}, evaluation: {metrics: [bce]}, target: {target: predicted}, attribution: {method: grad_cam}}",
        r"set data\.base\.crop_s to null",
    ),
    "a layer's map of a record that the layer never sees whole": (
        "experiment: e\nbase: {data: {dataset: ptbxl, crop_s: 2.5}, model: {model: resnet1d_wang}, evaluation: {metrics: [bce]},\n"
        "  target: {target: predicted}, attribution: {method: grad_cam}}",
        r"grad_cam looks at a layer, which sees windows of a record, not the record; set data\.crop_s to null",
    ),
    "a metric of images where there are signals": (
        "experiment: e\nbase: {data: {dataset: ptbxl}, model: {model: mlp}, evaluation: {metrics: [bce, road]},\n"
        "  target: {target: predicted}}",
        r"metric road needs images, and data set ptbxl has signal; take infidelity",
    ),
    "features changed as if they were images": (
        "experiment: e\nbase: {data: {dataset: additive}, model: {model: mlp}, evaluation: {metrics: [r2]},\n"
        "  augmentation: {rule: replace_top}}",
        r"changes image or signal, and data set additive has features; set its rule to none, same_compute or repeat",
    ),
    "words replaced by their mean": (
        "experiment: e\nbase: {data: {dataset: news20}, model: {model: text_cnn, width: 8}, augmentation: {rule: replace_top}}",
        r"changes image or signal, and data set news20 has tokens; set its value to zero or unknown, channels to together",
    ),
    "signals darkened": (
        "experiment: e\nbase: {data: {dataset: ptbxl}, model: {model: mlp}, evaluation: {metrics: [bce]}, target: {target: predicted},\n"
        "  augmentation: {rule: replace_random, value: blend}}",
        r"data set ptbxl has signal; set its value to zero or mean or min or max or noise or linear, channels to together",
    ),
    "the unknown word in one of several channels": (
        "experiment: e\nbase: {augmentation: {rule: replace_top, value: unknown, channels: apart}}",
        r"value unknown is for words, which have no channels to be replaced apart; leave channels out",
    ),
    "signals cropped as if they were images": (
        "experiment: e\nbase: {data: {dataset: ptbxl}, model: {model: mlp}, evaluation: {metrics: [bce]}, target: {target: predicted},\n"
        "  retraining: {transforms: [crop]}}",
        r"retraining: crop as it is set changes image, and data set ptbxl has signal; leave it out",
    ),
    "labels explained as if they were classes": (
        "experiment: e\nbase: {data: {dataset: ptbxl}, model: {model: mlp}, evaluation: {metrics: [bce]}, target: {target: predicted},\n"
        "  pretraining: {guide: {guide: aba, strength: 0.3}}}",
        r"pretraining: guide aba as it is set is for classes, and data set ptbxl asks for labels; for labels take target loss",
    ),
    "values explained by a loss of classes": (
        "experiment: e\nbase: {data: {dataset: additive}, model: {model: mlp}, evaluation: {metrics: [r2]},\n"
        "  pretraining: {guide: {guide: aba, strength: 0.3, target: loss}}}",
        r"guide aba as it is set is for classes or labels, and data set additive asks for values; .*for values guide noise",
    ),
    "a mean that no image has": (
        "experiment: e\nbase: {data: {dataset: mnist_small, normalise: {mean: [2.0], std: [1.0]}}}",
        r"mean.*less than or equal to 1, got 2\.0",
    ),
    "texts mixed with each other": (
        "experiment: e\nbase: {data: {dataset: news20}, model: {model: text_cnn, width: 8}, pretraining: {mixing: mixup}}",
        r"pretraining: mixup as it is set changes image or signal or features, and data set news20 has tokens; leave it out",
    ),
    "lines across images": (
        "experiment: e\nbase: {pretraining: {guide: {guide: input_dropout, fill: linear}}}",
        r"pretraining: input_dropout as it is set changes signal, and data set mnist_small has image; leave it out, or set it otherwise",
    ),
    "features moved with the channels that they do not have": (
        "experiment: e\nbase: {data: {dataset: additive}, model: {model: mlp}, evaluation: {metrics: [r2]},\n"
        "  pretraining: {guide: {guide: aba, strength: 0.3, unit: pixel}}}",
        r"pretraining: aba as it is set changes image or signal, and data set additive has features",
    ),
    "right reasons where nobody knows them": (
        "experiment: e\nbase: {pretraining: {penalty: {penalty: right_reasons, weight: 10.0, wrong: inside}}}",
        r"pretraining: penalty right_reasons needs masks that say where the evidence lies, and data set mnist_small has none; leave it out",
    ),
    "labels penalised as if they were classes": (
        "experiment: e\nbase: {data: {dataset: ptbxl}, model: {model: mlp}, evaluation: {metrics: [bce]}, target: {target: predicted},\n"
        "  pretraining: {penalty: {penalty: saliency_guided}}}",
        r"penalty saliency_guided as it is set is for classes, and data set ptbxl asks for labels; for labels take target loss",
    ),
    "an oracle of another function": (
        "experiment: e\nbase: {data: {dataset: additive, effect: linear}, model: {model: oracle}, evaluation: {metrics: [r2]}}",
        r"model oracle knows data set additive with effect nonlinear, got additive with effect linear; give both the same",
    ),
    "a truth that nobody knows": (
        "experiment: e\nbase: {evaluation: {metrics: [{metric: pearson, reference: {method: truth}}]}}",
        r"reference truth knows data set additive with effect nonlinear, got mnist_small with effect None",
    ),
    "maps with and without signs": (
        "experiment: e\nbase: {attribution: {method: saliency}, evaluation: {metrics: [spearman]}}",
        r"metric spearman holds a map with signs against that of saliency, which has none; set its field of to absolute, or mixed_signs",
    ),
    "an exact counterpart of what is no difference": (
        "experiment: e\nbase: {evaluation: {metrics: [{metric: pearson, reference: {method: exact}}]}}",
        r"reference exact is that of method finite_differences; name the reference's own method instead",
    ),
    "a published value that is no number": (
        "experiment: e\nsweep: {list: [{arm: a, published: {test.accuracy: high}}]}",
        r"sweep: published: wanted numbers by column, such as \{test\.accuracy: 0\.9\}, got \{'test\.accuracy': 'high'\}",
    ),
    "a published value that no column shows": (
        "experiment: e\nsweep: {list: [{arm: a, published: {test.acuracy: 0.9}}]}",
        r"sweep: published: 'test\.acuracy' is no column of the table \(nearest: test\.accuracy;",
    ),
    "a measure of what is not made": (
        "experiment: e\nbase: {augmentation: {rule: replace_top, mode: replace}, evaluation: {replaced: true}}",
        r"evaluation\.replaced measures on made samples; set selection to \{rule: all, held_out_too: true\}",
    ),
    "held-out samples changed by their labels": (
        "experiment: e\nbase: {selection: {rule: all, held_out_too: true}, augmentation: {rule: replace_top, mode: replace},\n"
        "  evaluation: {replaced: true}}",
        r"target label would change held-out samples by their labels, and so tell them; set target to predicted, rank or class",
    ),
    "held-out samples made for nothing": (
        "experiment: e\nbase: {selection: {rule: all, held_out_too: true}, augmentation: {rule: replace_top, mode: replace}}",
        r"selection\.held_out_too makes samples that nothing is measured on; set evaluation\.replaced to true",
    ),
    "parts of held-out samples in those trained on": (
        "experiment: e\nbase: {selection: {rule: all, held_out_too: true}, target: {target: predicted}, evaluation: {replaced: true},\n"
        "  augmentation: {rule: replace_top, mode: replace, graft: true}}",
        r"augmentation\.graft would put parts of held-out samples into those trained on; set it to false",
    ),
    "two entries of one metric": (
        "experiment: e\nbase: {evaluation: {metrics: [pearson, {metric: pearson, reference: {method: integrated_gradients}}]}}",
        r"evaluation\.metrics: 2 metrics would be called 'pearson'; give them names of their own",
    ),
    "all of an image as its own neighbours": (
        "experiment: e\nbase: {evaluation: {metrics: [{metric: removal_curve, fill: road, shares: [0.5, 1.0]}]}}",
        r"evaluation\.metrics\.0: fill road needs neighbours that are kept; set the last of shares below 1",
    ),
    "no name": ("base: {}", r"e\.yaml\.experiment: Field required"),
    "a name that is no file name": ("experiment: a/b", r"experiment: wanted a name of at most 60 letters, digits, .*; got 'a/b'"),
    "a name that leads out of the store": (
        "experiment: ..",
        r"experiment: wanted a name .* the first a letter, .*; got '\.\.'",
    ),
    "a name that is an option": ("experiment: -x", r"experiment: wanted a name .*; got '-x'"),
    "a name that is too long": ("experiment: " + "x" * 61, r"experiment: wanted a name of at most 60 letters"),
    "a name that ends its line": ('experiment: "e\\n"', r"experiment: wanted a name .*; got 'e\\n'"),
    "a list of runs": ("- a\n- b", r"holds list; wanted a mapping with `experiment:` and `base:`"),
    "an empty file": ("# nothing yet\n", r"e\.yaml is empty; wanted a mapping with `experiment:` and `base:`"),
    "what is no YAML": ("experiment: [e", r"e\.yaml is not YAML: while parsing a flow sequence"),
    "two documents": ("experiment: e\n---\nexperiment: f", r"is not YAML: expected a single document"),
    "a key given twice": ("experiment: e\nbase:\n  seed: 1\n  seed: 2", r"e\.yaml: line 3: 'seed' is given twice; leave one out"),
    "a list for a key": ("experiment: e\nbase: {? [a, b] : 1}", r"(?s)e\.yaml is not YAML: .*unhashable key"),
    "an alias": ("experiment: e\nbase: &b {seed: 1}\nsweep: *b", r"has aliases or is nested deeper than 20; write it out flat"),
    "an alias bomb": (
        "a: &a [x, x]\n" + "".join(f"{c}: &{c} [*{b}, *{b}, *{b}]\n" for b, c in zip("abcdefgh", "bcdefghi", strict=True)),
        r"has aliases or is nested deeper",
    ),
    "what is nested too deep": ("experiment: e\nbase: " + "[" * 100_000, r"nested deeper than 20"),
    "a file too large": ("experiment: e\n" + "#" * MAX_BYTES, r"e\.yaml is too large; an experiment file has at most 1000000 bytes"),
    "code": ("experiment: !!python/object/apply:os.getcwd []", r"is not YAML: could not determine a constructor for the tag"),
    "no runs": ("experiment: e\nsweep: {seed: []}", r"sweep has no runs; give each swept field at least one value"),
    "a sweep of no list": ("experiment: e\nsweep: {seed: 3}", r"sweep\.seed: wanted a list of values, got 3"),
    "a sweep of an unknown field": (
        "experiment: e\nsweep: {pretraining.epoch: [1]}",
        r"pretraining: unknown field 'epoch' \(nearest: epochs",
    ),
    "a sweep of a wrong value": (
        "experiment: e\nsweep: {seed: [0, -1]}",
        r"run \{'seed': -1\}\.seed: .*greater than or equal to 0, got -1",
    ),
    "a sweep that is too large": (
        "experiment: e\nsweep: {seed: [" + "0, " * 1000 + "], rounds: [" + "1, " * 1000 + "]}",
        r"sweep has 1000000 runs; at most 100000",
    ),
    "a field swept twice": (
        "experiment: e\nsweep: {seed: [0], list: [{seed: 1}]}",
        r"sweep: 'seed' is varied in 2 places; leave it in one",
    ),
    "a zip of unequal lists": ("experiment: e\nsweep: {zip: {seed: [0, 1], rounds: [1]}}", r"sweep\.zip: wanted lists of equal length"),
    "a zip of numbers": ("experiment: e\nsweep: {zip: {seed: 0}}", r"sweep\.zip: wanted lists of equal length by field, got"),
    "a zip of nothing": ("experiment: e\nsweep: {zip: {}}", r"sweep\.zip: wanted lists of equal length"),
    "a list of names": ("experiment: e\nsweep: {list: [none]}", r"sweep\.list: wanted a list of mappings, got 'none'"),
    "a mapping for a list": ("experiment: e\nsweep: {list: {arm: x}}", r"sweep\.list: wanted a list"),
    "a number for an arm": ("experiment: e\nsweep: {list: [{arm: 3}]}", r"sweep: arm: wanted a name, got 3"),
    "an arm without a name": ("experiment: e\nsweep: {list: [{arm: ''}]}", r"sweep: arm: wanted a name, got ''"),
    "an arm on two lines": ('experiment: e\nsweep: {list: [{arm: "a\\nb"}]}', r"sweep: arm: wanted a name on one line, .* got 'a\\nb'"),
    "an arm that rings": ('experiment: e\nsweep: {list: [{arm: "a\\a"}]}', r"sweep: arm: wanted a name on one line, .* got 'a\\x07'"),
    "one arm with a seed twice": (
        "experiment: e\nsweep: {list: [{arm: x}, {arm: x, rounds: 2}]}",
        r"arm 'x' has seed 0 on fold 0 twice in one table; name arms",
    ),
    "a seed twice": ("experiment: e\nsweep: {seed: [1, 1]}", r"has seed 1 on fold 0 twice"),
    "a fold twice": ("experiment: e\nsweep: {data.fold: [0, 2, 2]}", r"arm 'base' has seed 0 on fold 2 twice in one table"),
    "an unknown arm as control": (
        "experiment: e\nsweep: {list: [{arm: plain}, {arm: top, rounds: 2}]}\ntable: {control: plan}",
        r"table\.control: unknown arm 'plan' \(nearest: plain; valid: plain, top\)",
    ),
    "published defects in a table that is no audit": (
        "experiment: e\nbase: {legacy: {resplit: true}, pretraining: {guide: {guide: aba, strength: 1.0, legacy_global_shift: true}}}",
        r"arm 'base' repeats published defects \(legacy\.resplit, pretraining\.guide\.legacy_global_shift\), whose results are for audits",
    ),
    "rounds of a run that has none": (
        "experiment: e\nbase: {schedule: [5, p, 4]}",
        r"schedule \[5, 'p', 4\] has 1 rounds, and augmentation none has none; write a p for each round, or no p",
    ),
    "rounds that are missing": (
        "experiment: e\nbase: {schedule: [9], augmentation: {rule: replace_top}}",
        r"schedule \[9\] has 0 rounds, and augmentation replace_top needs one or more",
    ),
    "a schedule that begins anew": (
        "experiment: e\nbase: {schedule: [5, p, 4], augmentation: {rule: replace_top}, retraining: {start: scratch}}",
        r"retraining: a schedule goes on from round to round; leave early_stop_epochs out, and start pretrained",
    ),
    "a new split without validation samples": (
        "experiment: e\nbase: {legacy: {resplit: true}, data: {dataset: mnist_small, folds: 1}}\ntable: {audit: true}",
        r"legacy\.resplit draws training and validation samples anew, but data\.folds is 1; set data\.folds to 2 or more",
    ),
    "an unknown arm as upper reference": (
        "experiment: e\nsweep: {list: [{arm: plain}, {arm: top, rounds: 2}]}\ntable: {control: plain, upper: tip}",
        r"table\.upper: unknown arm 'tip' \(nearest: top; valid: plain, top\)",
    ),
    "a gap of one arm": (
        "experiment: e\nsweep: {list: [{arm: plain}, {arm: top, rounds: 2}]}\ntable: {upper: top}",
        r"table\.upper: a gap is between two arms; name another arm as table\.control",
    ),
    "an unknown arm as control of an arm": (
        "experiment: e\nsweep: {list: [{arm: plain}, {arm: top, rounds: 2, control: plan}]}",
        r"sweep: control: unknown arm 'plan' \(nearest: plain; valid: plain, top\)",
    ),
    "an arm as its own control": ("experiment: e\nsweep: {list: [{arm: x, control: x}]}", r"arm 'x' is its own control; leave it out"),
    "an arm with two controls": (
        "experiment: e\nsweep: {list: [{arm: a}, {arm: b}, {arm: x, control: a}, {arm: x, seed: 1, control: b}]}",
        r"sweep: control: arm 'x' has 'a' and 'b'; give it one",
    ),
    "a number for a control": ("experiment: e\nsweep: {list: [{arm: x, control: 3}]}", r"sweep: control: wanted a name, got 3"),
    "a metric of a split that the data do not have": (
        "experiment: e\ntable: {metrics: [test_clean.accuracy]}",
        r"'test_clean\.accuracy': no data set of the runs has split 'test_clean' \(nearest: test; valid: test, validation\)",
    ),
    "a metric of a validation that is not held out": (
        "experiment: e\nbase: {data: {dataset: shortcut, base: {dataset: mnist_small, folds: 1}}}\ntable: {metrics: [validation.nll]}",
        r"no data set of the runs has split 'validation' \(valid: test, test_clean\)",
    ),
    "an unknown metric in the table": (
        "experiment: e\ntable: {metrics: [test.acuracy]}",
        r"got 'test\.acuracy' \(nearest: accuracy; valid:",
    ),
    "a metric that is not measured": (
        "experiment: e\nbase: {evaluation: {metrics: [nll]}}\ntable: {metrics: [test.accuracy]}",
        r"table\.metrics: wanted <split>\.<metric>, got 'test\.accuracy' \(valid: nll\)",
    ),
    "a table of nothing": ("experiment: e\ntable: {metrics: []}", r"table\.metrics: List should have at least 1 item"),
    "a column twice": (
        "experiment: e\ntable: {metrics: [test.nll, test.accuracy, test.nll]}",
        r"table\.metrics: 'test\.nll' is given 2 times; name each column once",
    ),
    "a metric that one arm does not measure": (
        "experiment: e\nsweep: {list: [{arm: a}, {arm: b, evaluation: {metrics: [nll, ece]}}]}",
        r"arm 'b' does not measure 'accuracy' \(it measures nll, ece\); add it to its evaluation\.metrics",
    ),
    "a split that one arm does not have": (
        "experiment: e\nsweep: {data: [{dataset: shortcut}, {dataset: mnist_small}]}\ntable: {metrics: [test_clean.nll]}",
        r"arm 'data=mnist_small.*' has no split 'test_clean' \(it has test, validation\); leave 'test_clean\.nll' out of the table",
    ),
    "a metric without its split": ("experiment: e\ntable: {metrics: [accuracy]}", r"wanted <split>\.<metric>, got 'accuracy'"),
    "a table by an unknown setting": (
        "experiment: e\ntable: {by: [data.bse]}",
        r"table\.by: wanted a setting that decides every run, got 'data\.bse' \(nearest: data",
    ),
    "a table by a setting that not every run reads": (
        "experiment: e\nsweep: {list: [{arm: a}, {arm: b, augmentation: {rule: replace_top}}]}\ntable: {by: [attribution]}",
        r"table\.by: wanted a setting that decides every run, got 'attribution' \(.*valid: .*data, .*rounds, seed",
    ),
    "a table by rounds of runs without any": (
        "experiment: e\nsweep: {rounds: [1, 2], list: [{arm: a}]}\ntable: {by: [rounds]}",
        "arm 'a' has seed 0 on fold 0 twice in one table",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_an_experiment_file_must_not_hold_is_named(load, what):
    text, message = REFUSED[what]
    with pytest.raises(SettingsError, match=message):
        load(text)


def test_every_wrong_field_of_a_run_is_told_at_once(load):
    with pytest.raises(SettingsError, match=r"(?s)epochs: .*\n.*momentum: "):
        load(base={"pretraining": {"epochs": -1, "momentum": 2.0}})


def test_an_experiment_that_is_not_there_is_answered_with_those_that_are():
    with pytest.raises(
        SettingsError, match=r"no experiment 'quickstrat' \(nearest: quickstart; valid: .*quickstart.*give a name or a path"
    ):
        load_experiment("quickstrat")


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "e.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingsError, match=r"e\.yaml can not be read as UTF-8 text"):
        load_experiment(str(tmp_path / "e.yaml"))
