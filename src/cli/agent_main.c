#include "cli/agent_program.h"

int main(int argc, char **argv)
{
    return program_run(&agent_program, argc, argv);
}
