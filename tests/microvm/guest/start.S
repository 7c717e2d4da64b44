/* The first instructions of the test guest: PVH hands over in 32-bit protected mode without paging, ebx = start_info. Identity-mapped 4 GiB in long
 * mode, a stack, then guest_main(start_info). Interrupts come in at isr_entry, which goes back without iretq: some hypervisors emulate the guest
 * instruction by instruction and do not know that one. */
    .section .note.Xen, "a", @note
    .long 4, 4, 18
    .asciz "Xen"
    .long entry32

    .section .text.start, "ax"
    .code32
    .globl entry32
entry32:
    mov %ebx, %edi
    lgdt gdt_pointer
    mov $page_level4, %eax
    mov %eax, %cr3
    mov %cr4, %eax
    or $0x20, %eax              /* PAE */
    mov %eax, %cr4
    mov $0xc0000080, %ecx
    rdmsr
    or $0x100, %eax             /* long mode */
    wrmsr
    mov %cr0, %eax
    or $0x80000001, %eax
    mov %eax, %cr0
    ljmp $8, $entry64

    .code64
entry64:
    mov $16, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov $stack_top, %esp
    mov %edi, %edi
    call guest_main
1:  hlt
    jmp 1b

    .globl isr_entry
isr_entry:
    push %rax
    push %rcx
    push %rdx
    push %rsi
    push %rdi
    push %r8
    push %r9
    push %r10
    push %r11
    call guest_interrupt
    pop %r11
    pop %r10
    pop %r9
    pop %r8
    pop %rdi
    pop %rsi
    pop %rdx
    pop %rcx
    /* rax, then the frame: rip cs rflags rsp ss. Put flags and rip below the old stack pointer and leave through them. */
    push %rbx
    mov 40(%rsp), %rbx          /* old rsp */
    sub $32, %rbx
    mov 16(%rsp), %rax          /* rip */
    mov %rax, 24(%rbx)
    mov 32(%rsp), %rax          /* rflags */
    mov %rax, 16(%rbx)
    mov 8(%rsp), %rax           /* the interrupted rax */
    mov %rax, 8(%rbx)
    mov (%rsp), %rax            /* the interrupted rbx */
    mov %rax, (%rbx)
    mov %rbx, %rsp
    pop %rbx
    pop %rax
    popfq
    ret

    .section .data
    .balign 8
gdt:
    .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff
gdt_pointer:
    .word 23
    .long gdt
    .balign 4096
page_level4:
    .quad page_level3 + 3
    .fill 511, 8, 0
page_level3:
    .quad page_level2 + 3, page_level2 + 0x1003, page_level2 + 0x2003, page_level2 + 0x3003
    .fill 508, 8, 0
page_level2:
    .set address, 0
    .rept 2048
    .quad address + 0x83
    .set address, address + 0x200000
    .endr

    .section .bss
    .balign 16
    .fill 16384, 1, 0
stack_top:
    .section .note.GNU-stack, "", @progbits
