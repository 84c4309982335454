/* Times every single step of an exported agent inside C, its memory fed back.
 *
 * rows: steps that are timed together, each with a memory of its own. observations: how many
 * different ones there are for each row, taken in turn. */
#define _POSIX_C_SOURCE 199309L
#include <stdint.h>
#include <time.h>

typedef int kd_step(const float *obs, const unsigned char *legal, float *memory, float *logits);

static int64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

void kd_time_steps(kd_step *step, int64_t samples, int64_t *nanoseconds, int rows,
                   int observations, const float *obs, int inputs, const unsigned char *legal,
                   float *memory, int width, float *logits)
{
    for (int64_t k = 0; k < samples; k++) {
        const float *given = obs + (int64_t)(k % observations) * rows * inputs;
        const int64_t start = now();
        for (int r = 0; r < rows; r++)
            step(given + r * inputs, legal, memory + r * width, logits);
        nanoseconds[k] = now() - start;
    }
}
