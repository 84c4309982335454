#include "selftest.h"

#define KD_TEST_MEMORY 4096
#define KD_TEST_ACTIONS 1024

static float magnitude(float x)
{
    return x < 0.0f ? -x : x;
}

/* Two actions whose expected logits differ by no more than rounding may be taken for each other. */
static int wrong(int action, int expected, const float *logits, float tolerance)
{
    const float bound = 2.0f * tolerance * (1.0f + magnitude(logits[expected]));
    return action != expected && !(magnitude(logits[expected] - logits[action]) <= bound);
}

int kd_selftest(float tolerance, float *largest)
{
    static float memory[KD_TEST_MEMORY], logits[KD_TEST_ACTIONS];
    int failures = 0;
    *largest = 0.0f;
    if (kd_case.memory > KD_TEST_MEMORY || kd_case.actions > KD_TEST_ACTIONS)
        return -1;
    for (int step = 0; step < kd_case.steps; step++) {
        const float *said = kd_case.logits + step * kd_case.actions;
        if (kd_case.executed[step] < 0)
            kd_case.reset(memory);
        else
            kd_case.set_executed(memory, kd_case.executed[step]);
        const int action = kd_case.act(kd_case.obs + step * kd_case.inputs,
                                       kd_case.legal + step * kd_case.actions, memory, logits);
        int failed = wrong(action, kd_case.expected[step], said, tolerance);
        for (int i = 0; i < kd_case.actions; i++) {
            const float size = magnitude(said[i]);
            const float error = magnitude(logits[i] - said[i]) / (size > 1.0f ? size : 1.0f);
            failed |= !(error <= tolerance);
            *largest = error > *largest ? error : *largest;
        }
        failures += failed;
    }
    return failures;
}
