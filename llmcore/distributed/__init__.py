"""Several processes that train as one. Import from the module.

schedules         who sends what when: plain lists
collectives       the sums and copies that all ranks take part in
launch            a function run by several processes of this machine
data_parallel...  the ways to share the work, one file each, with the same verbs:

    parallel = DataParallel(model)   or Zero, TensorParallel, ContextParallel, PipelineParallel([Part(...)])
    parallel.finish()                after backward: each p.grad is the gradient of the global loss
    parallel.clip(max_norm)          to the norm over all ranks, where they hold different gradients
    parallel.whole()                 the model's state_dict, where a rank holds a part of it
    parallel.remove()                takes the hooks off, where the model itself is unchanged

parallel          the same for use, on torch's own engine; sharded: its checkpoints
"""
