#include <math.h>

#include "selftest.h"

#define KD_TEST_MEMORY 4096
#define KD_TEST_ACTIONS 1024
#define KD_TEST_INPUTS 4096

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

/* Whether a step acts upon a number that cannot be computed with; the last action alone is legal. */
static int accepts(float value, int in_memory)
{
    static float obs[KD_TEST_INPUTS], memory[KD_TEST_MEMORY], kept[KD_TEST_MEMORY];
    static float logits[KD_TEST_ACTIONS];
    static unsigned char legal[KD_TEST_ACTIONS];
    const int last = kd_case.actions - 1;
    int accepted = 0;
    for (int i = 0; i < kd_case.inputs; i++)
        obs[i] = kd_case.obs[i];
    for (int i = 0; i < kd_case.actions; i++)
        legal[i] = i == last;
    kd_case.reset(memory);
    (void)kd_case.act(obs, kd_case.legal, memory, logits);
    if (in_memory)
        memory[0] = value;
    else
        obs[0] = value;
    for (int i = 0; i < kd_case.memory; i++)
        kept[i] = memory[i];
    kd_case.set_executed(kept, last);
    accepted |= kd_case.act(obs, legal, memory, logits) != last;
    for (int i = 0; i < kd_case.actions; i++)
        accepted |= logits[i] == logits[i]; /* NaN alone differs from itself */
    for (int i = in_memory; i < kd_case.memory; i++)
        accepted |= memory[i] != kept[i];
    return accepted;
}

int kd_selftest(float tolerance, float *largest)
{
    static float memory[KD_TEST_MEMORY], logits[KD_TEST_ACTIONS];
    int failures = 0;
    *largest = 0.0f;
    if (kd_case.memory > KD_TEST_MEMORY || kd_case.actions > KD_TEST_ACTIONS ||
        kd_case.inputs > KD_TEST_INPUTS)
        return -1;
    const float unusable[] = {NAN, INFINITY, -INFINITY, 3.0e38f};
    for (int k = 0; k < 4; k++)
        for (int in_memory = kd_case.inputs < 1; in_memory < 2; in_memory++)
            failures += accepts(unusable[k], in_memory);
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
