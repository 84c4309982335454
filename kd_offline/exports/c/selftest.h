/* Whole recorded episodes, with the answers that an export was checked to give. */
#ifndef KD_SELFTEST_H
#define KD_SELFTEST_H

struct kd_case {
    const char *agent;
    int steps, inputs, actions, memory;
    const float *obs;            /* [steps][inputs] */
    const unsigned char *legal;  /* [steps][actions] */
    const short *executed;       /* [steps], the action executed a step ago; -1: episode begins */
    const short *expected;       /* [steps] */
    const float *logits;         /* [steps][actions] */
    int (*act)(const float *, const unsigned char *, float *, float *);
    void (*reset)(float *);
    void (*set_executed)(float *, int);
};

extern const struct kd_case kd_case;

/* Run all steps; return how many went wrong, and the largest relative error of a logit. */
int kd_selftest(float tolerance, float *largest);

#endif
