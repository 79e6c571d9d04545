/* Two ways in: the Linux 64-bit entry (rsi: boot parameters) and PVH (ebx: start information, 32-bit, no paging). */

	.section .note.Xen, "a", @note
	.align 4
	.long 4, 4, 18			/* XEN_ELFNOTE_PHYS32_ENTRY */
	.asciz "Xen"
	.long start32

	.text
	.code64
	.globl start64
start64:
	lea	stack_top(%rip), %rsp
	mov	%rsi, %rdi
	xor	%esi, %esi
	call	main
1:	hlt
	jmp	1b

	.code32
	.globl start32
start32:
	mov	%ebx, %edi
	/* Identity-map the first GiB with 2 MiB pages. */
	movl	$level3 + 3, level4
	movl	$level2 + 3, level3
	mov	$0x83, %eax
	mov	$level2, %edx
1:	mov	%eax, (%edx)
	add	$0x200000, %eax
	add	$8, %edx
	cmp	$0x40000000, %eax
	jb	1b
	mov	$level4, %eax
	mov	%eax, %cr3
	mov	%cr4, %eax
	or	$0x20, %eax		/* PAE */
	mov	%eax, %cr4
	mov	$0xc0000080, %ecx	/* EFER: long mode */
	rdmsr
	or	$0x100, %eax
	wrmsr
	lgdt	descriptors
	mov	%cr0, %eax
	or	$0x80000000, %eax	/* paging */
	mov	%eax, %cr0
	ljmp	$8, $long_mode

	.code64
long_mode:
	mov	$16, %eax
	mov	%eax, %ds
	mov	%eax, %es
	mov	%eax, %ss
	lea	stack_top(%rip), %rsp
	mov	%edi, %edi
	mov	$1, %esi
	call	main
1:	hlt
	jmp	1b

	.data
	.align 8
table:	.quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff
descriptors:
	.word 23
	.long table

	.bss
	.align 4096
level4:	.skip 4096
level3:	.skip 4096
level2:	.skip 4096
stack:	.skip 16384
stack_top:

	.section .note.GNU-stack, "", @progbits
