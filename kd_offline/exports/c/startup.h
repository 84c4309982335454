/* A Cortex-M that starts at address 0, with its FPU switched on. */
#ifndef KD_STARTUP_H
#define KD_STARTUP_H

#include <stdint.h>

extern uint32_t kd_stack_top, kd_data_load, kd_data_start, kd_data_end, kd_bss_start, kd_bss_end;
int main(void);
void kd_start(void);

void kd_start(void)
{
    *(volatile uint32_t *)0xE000ED88u |= 0xFu << 20; /* CPACR: full access to the FPU */
    __asm__ volatile("dsb\n isb");
    const uint32_t *from = &kd_data_load;
    for (uint32_t *to = &kd_data_start; to < &kd_data_end; to++)
        *to = *from++;
    for (uint32_t *to = &kd_bss_start; to < &kd_bss_end; to++)
        *to = 0;
    (void)main();
    for (;;)
        ;
}

__attribute__((section(".vectors"), used)) static const void *const kd_vectors[] = {
    &kd_stack_top,
    (const void *)(uintptr_t)&kd_start,
};

#endif
