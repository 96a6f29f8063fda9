"""Commands: one thin module for each verb of `hyperseg`.

Entry point
    main.py    parses the verb, runs its module, turns bad input into one line
    script.py  what is around a command: closed and full streams, Ctrl-C and SIGTERM

Models
    quickstart.py           segment, fine-tune, and one HTML page of both
    train.py                train from a config into a workdir
    sweep.py                many trainings
    evaluate.py             validation scores of a model
    evaluate_benchmarks.py  benchmarks beside published numbers
    predict.py              segment an image or a video

Data, weights, plans
    data.py            check, build, toy world, samples
    import_weights.py  PyTorch checkpoints into a model folder
    export_weights.py  a model folder into PyTorch files
    plan.py            memory and traffic on a TPU slice
"""
