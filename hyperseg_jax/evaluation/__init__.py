"""Asking a model and scoring its predictions: validation in training, benchmarks, and what predictors use.

Asking
    engine          Engine: a model behind jitted functions; predictions(): all examples of a task in global batches
    features        FeatureCache: what was encoded of a batch, kept for the next prompts about the same image
    protocols       how a benchmark asks: frame by frame, all frames at once, joint expressions, semi-supervised VOS
    clicks          interactive segmentation: click, answer, click again
    tracks          instances of a video, tracked over its frames
Scoring
    scoring         SCORINGS: for each way to score, its accumulator, its post-processing and how it is asked
    score_names     the names of the scores that a task's validation can give, known before any training
    validation      evaluate(): the scores of a config's tasks
    text_controls   a referring score beside its controls: shuffled texts, and answers that ignore the text
Benchmarks
    benchmarks      BENCHMARKS: reader, files and scoring of each benchmark
    benchmark_run   run(): one benchmark, resumable, on any number of hosts
    qualitative     the best and worst predictions of a run, drawn as one image
    submissions     predictions as the benchmarks' servers take them
"""
