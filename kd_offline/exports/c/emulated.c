/* The self-test on an emulated Cortex-M: prints failures and SysTick ticks through semihosting. */
#include "selftest.h"
#include "startup.h"

#define SYST_CSR (*(volatile uint32_t *)0xE000E010u)
#define SYST_RVR (*(volatile uint32_t *)0xE000E014u)
#define SYST_CVR (*(volatile uint32_t *)0xE000E018u)
#define FULL 0xFFFFFFu

static int host(int operation, const void *argument)
{
    register int r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

static void print_number(const char *name, uint32_t value)
{
    char digits[12];
    int at = 11;
    digits[at] = '\0';
    do
        digits[--at] = (char)('0' + (int)(value % 10u));
    while ((value /= 10u) != 0u);
    (void)host(0x04, name); /* SYS_WRITE0 */
    (void)host(0x04, digits + at);
    (void)host(0x04, "\n");
}

/* Ticks of all steps, whatever they answer; the loop around them is a few instructions. */
static uint32_t timed(void)
{
    static float memory[4096], logits[1024];
    kd_case.reset(memory);
    SYST_RVR = FULL;
    SYST_CVR = 0u;
    SYST_CSR = 5u; /* the core's clock, no interrupt */
    const uint32_t before = SYST_CVR;
    for (int step = 0; step < KD_TIMED; step++)
        (void)kd_case.act(kd_case.obs + step * kd_case.inputs,
                          kd_case.legal + step * kd_case.actions, memory, logits);
    return (before - SYST_CVR) & FULL;
}

int main(void)
{
    float largest;
    const int failures = kd_selftest(KD_TOLERANCE, &largest);
    print_number("failures ", (uint32_t)failures);
    print_number("steps ", (uint32_t)kd_case.steps);
    print_number("timed ", (uint32_t)KD_TIMED);
    print_number("ticks ", timed());
    const uint32_t exit[2] = {0x20026u, (uint32_t)(failures != 0)};
    (void)host(0x20, exit); /* SYS_EXIT_EXTENDED: application exit with a status */
    return 1;
}
