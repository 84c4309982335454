/* The smallest firmware that runs one agent: what its size is measured on. */
#include KD_HEADER

#include "startup.h"

static float memory[KD_MEMORY], obs[KD_INPUTS + 1], logits[KD_ACTIONS];
static unsigned char legal[KD_ACTIONS];
static volatile int action;

int main(void)
{
    KD_RESET(memory);
    for (;;)
        action = KD_ACT(obs, legal, memory, logits);
}
