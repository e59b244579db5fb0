/* All that TensorRT's headers want of CUDA, for machines without it. */
#pragma once
typedef struct CUevent_st *cudaEvent_t;
typedef struct CUstream_st *cudaStream_t;
