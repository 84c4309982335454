#include <stdio.h>

#include "selftest.h"

int main(void)
{
    float largest;
    const int failures = kd_selftest(KD_TOLERANCE, &largest);
    printf("%s: %d of %d steps wrong, largest logit error %.3g (allowed %.3g)\n", kd_case.agent,
           failures, kd_case.steps, (double)largest, (double)KD_TOLERANCE);
    return failures != 0;
}
