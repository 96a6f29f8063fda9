"""Running and scoring a model: validation in training, benchmarks, and the engine of predictors.

Running
    engine          Engine: a model behind jitted functions; run_protocols(): all examples of a task in global batches
    array_limit     limit_arrays(): checks the arrays of a program against the limit `array`
    features        FeatureCache: encoded features, cached for further prompts about the same image
    protocols       queries of an example: frame by frame, all frames at once, joint expressions, semi-supervised VOS, texts of
                    regions
    clicks          interactive segmentation with simulated clicks
    start_shapes    the first prompts of simulated interactions
    tracks          video instances, tracked over frames
Scoring
    scoring         SCORINGS: accumulator, answer kind and protocol of each way to score
    caption_tools   scores of captions by other programs: METEOR, SPICE, spaCy
    score_names     names of the validation scores of a task, known before training
    validation      evaluate(): the scores of a config's tasks
    text_controls   a referring score with controls: shuffled texts, and text-blind baselines
    trivial_scores  scores of predictions without a model, from the targets' mean size, shape and classes
Benchmarks
    benchmarks      BENCHMARKS: reader, files and scoring of each benchmark
    benchmark_run   run(): runs one benchmark, resumable, on any number of hosts
    qualitative     the best and worst predictions of a run, drawn as one image
    submissions     submission files for evaluation servers
"""
