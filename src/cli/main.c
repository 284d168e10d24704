#include "cli/warren_program.h"

int main(int argc, char **argv)
{
    return program_run(&warren_program, argc, argv);
}
