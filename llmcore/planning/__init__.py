"""The cost of a training step on many GPUs, predicted without one: bytes held and sent, FLOPs, seconds.

plan       how a step is split, and whether a model can be split that way
hardware   two GPUs and their links, from the data sheets
models     the published models that are planned with
stages     the part of a model that one rank has
memory     bytes on the fullest rank
traffic    bytes that a rank sends, and how fast
work       FLOPs, seconds, utilization, days
published  runs that were measured, to hold the predictions against

A tensor-parallel rank is a model with 1 / tensor of the heads, of d_ff and of the vocabulary; a pipeline
stage is some of its blocks  [Shoeybi et al. 2019]. So parameters, FLOPs and activations are those that
llmcore.accounting counts for that smaller model, and equal to its counts where nothing is split.

Shapes: B sequences of the whole (global) batch, b = B / (data x microbatches) of them in a microbatch;
T tokens per sequence, D d_model.
"""
